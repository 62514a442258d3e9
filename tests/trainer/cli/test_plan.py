"""`python -m mochi_trainer plan`: from a file to what its training needs, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mochi_api.prediction.fitting import needed
from mochi_api.prediction.gpus import GPUS
from mochi_api.prediction.policies import LEAST, Policy
from mochi_api.prediction.seconds import step_seconds
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.work import Work
from mochi_trainer.__main__ import main
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs.plan_by_hand import Request, plan

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
FULL = EXAMPLES / "full-mochi-1.yaml"
LORA = EXAMPLES / "lora-mochi-1.yaml"
H100 = "NVIDIA-H100-80GB-HBM3"

RUN = {
    "stage": "train",
    "run": {"namespace": "a", "name": "b", "uid": "c"},
    "mode": "full",
    "model": {"preset": "mochi-1", "source": {"s3": {"uri": "s3://models/mochi/"}}},
    "dataset": {"source": {"s3": {"uri": "s3://clips/"}}},
    "preprocessing": {"frames": 85},
    "training": {"steps": 4000, "globalBatchSize": 8, "checkpoint": {"everySteps": 250, "keepLast": 2}},
    "sampling": {},
    "s3": {},
    "locations": {"dataset": "s3://clips", "cache": "s3://runs/cache", "run": "s3://runs/runs/c"},
    "world": {"replicas": 8, "gpusPerPod": 1},
}


def answer(path: Path, *, gpu: str = "") -> dict:
    return json.loads(plan(Request(file=path, gpu=gpu, json=True)))


def test_the_json_holds_what_the_formulas_say() -> None:
    found = answer(FULL, gpu=H100)
    work = Work(mode="full", network=NETWORKS["mochi-1"], frames=85, width=848, height=480, world=8)
    (product,) = found["products"]
    assert found["parameters"] == {"all": 10_027_677_744, "trained": 10_027_677_744}
    assert found["memoryBytes"]["needed"] == needed(work, LEAST)
    assert product["neededBytes"] == needed(work, Policy(left_alone=product["blocksLeftAlone"]))
    assert product["neededBytes"] <= product["availableBytes"] == GPUS[H100].available
    assert (product["named"], product["fits"]) == (True, True)


def test_of_several_sizes_the_largest_decides_the_memory_and_their_mean_the_time(tmp_path: Path) -> None:
    def planned(**preprocessing: object) -> dict:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({**RUN, "preprocessing": preprocessing}))
        return answer(tmp_path / "run.yaml", gpu="NVIDIA-H200")

    stills, long = {"frames": 1, "width": 848, "height": 480}, {"frames": 163, "width": 848, "height": 480}
    all_sizes = planned(frames=85, buckets=[stills, long])
    alone = planned(frames=163)
    assert all_sizes["sizes"] == ["85x848x480", "1x848x480", "163x848x480"]
    assert "sizes" not in alone
    assert all_sizes["memoryBytes"] == alone["memoryBytes"]
    left = all_sizes["products"][0]["blocksLeftAlone"]
    assert left == alone["products"][0]["blocksLeftAlone"]
    works = [
        Work(mode="full", network=NETWORKS["mochi-1"], frames=n, width=848, height=480, world=8)
        for n in (85, 1, 163)
    ]
    times = [step_seconds(work, Policy(left_alone=left), GPUS["NVIDIA-H200"]) for work in works]
    assert all_sizes["products"][0]["secondsPerStep"] == pytest.approx(sum(times) / 3, abs=0.001)


def test_a_run_file_gets_the_answer_of_the_object_it_was_made_from(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    of_object, of_run = answer(FULL, gpu=H100), answer(path, gpu=H100)
    of_object["products"][0]["named"] = False
    assert of_run == of_object


def test_the_table_names_every_gpu_and_those_of_the_file_first() -> None:
    lines = plan(Request(file=LORA, gpu="", json=False)).splitlines()
    rows = [line for line in lines if line.startswith("NVIDIA")]
    assert rows[0].split()[:2] == [H100, "*"]
    assert sorted(row.split()[0] for row in rows) == sorted(GPUS)
    assert [row.split()[0] for row in rows if "does not fit" in row] == [
        gpu.product for gpu in GPUS.values() if gpu.mebibytes < 30_000
    ]
    assert any("memory that a GPU needs at least" in line and "27.9 GiB" in line for line in lines)


def test_pods_with_room_for_it_each_have_a_copy_of_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    training = RUN["training"] | {"globalBatchSize": 16}
    path.write_text(yaml.safe_dump(RUN | {"world": {"replicas": 2, "gpusPerPod": 8}, "training": training}))
    products = {row["product"]: row for row in answer(path)["products"]}
    assert products[H100]["weightCopies"] == 2
    assert products[H100]["trafficBetweenPodsBytesPerStep"] == 8 * (10_027_677_744 // 8) // 2
    assert products["NVIDIA-A100-SXM4-40GB"]["weightCopies"] == 1
    assert products["NVIDIA-A100-SXM4-40GB"]["trafficBetweenPodsBytesPerStep"] == 0
    lines = plan(Request(file=path, gpu=H100, json=False)).splitlines()
    assert any(line.endswith("2 copies, 5.0 GB between pods") for line in lines)


def test_gradients_of_several_clips_are_planned_to_be_summed_once_where_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    section = {"preprocessing": {"frames": 37}, "training": RUN["training"] | {"globalBatchSize": 32}}
    path.write_text(yaml.safe_dump(RUN | section))
    products = {row["product"]: row for row in answer(path)["products"]}
    assert products[H100]["gradientsSynchronisedOnce"] is True
    assert products["NVIDIA-A100-SXM4-40GB"]["gradientsSynchronisedOnce"] is False
    weights, gradients = (
        4 * times * NETWORKS["mochi-1"].parameters * 7 // 8 for times in (4, 1)
    )  # in bytes: twice in bfloat16 with each of four clips; once in float32
    assert products[H100]["trafficBytesPerStep"] == pytest.approx(weights + gradients, rel=1e-9)
    once = Work(
        mode="full", network=NETWORKS["mochi-1"], frames=37, width=848, height=480, world=8, pods=8, share=4,
        synchronise_once=True,
    )  # fmt: skip
    policy = Policy(left_alone=products[H100]["blocksLeftAlone"])
    assert products[H100]["neededBytes"] == needed(once, policy)
    lines = plan(Request(file=path, gpu=H100, json=False)).splitlines()
    assert any(line.endswith("gradients summed once a step, 175.5 GB received") for line in lines)


def test_the_plan_tells_whether_blocks_are_compiled(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    swapped = {"mode": "lora", "training": {"steps": 10, "lora": {"blocksToSwap": 20}}, "world": {}}
    path.write_text(yaml.safe_dump(RUN | swapped))
    assert answer(FULL, gpu=H100)["compiled"] is True
    assert answer(path, gpu=H100)["compiled"] is False
    lines = plan(Request(file=path, gpu=H100, json=False)).splitlines()
    assert any(line.startswith("blocks are not compiled, since 20 of them wait") for line in lines)


def test_gpus_that_share_a_clip_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    training = RUN["training"] | {"globalBatchSize": 4, "contextParallel": 2}
    path.write_text(yaml.safe_dump(RUN | {"world": {"replicas": 1, "gpusPerPod": 8}, "training": training}))
    found = answer(path)
    assert (found["clipsPerGpu"], found["tokens"]["visual"]) == (1, 23850)
    assert found["memoryBytes"]["kept"] < answer(FULL)["memoryBytes"]["kept"] * 0.55
    lines = plan(Request(file=path, gpu="", json=False)).splitlines()
    assert any("8 GPUs, 2 of which share each clip" in line for line in lines)
    assert any("each clip is shared by 2 GPUs of a pod" in line for line in lines)


def test_the_parts_of_the_memory_add_up() -> None:
    found = answer(FULL)["memoryBytes"]
    needed_, parts = found.pop("needed"), sum(found.values())
    assert parts < needed_ < 1.1 * parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: MochiFineTune\nspec: {mode: lora, wrong: 1}", "wrong"),
        ("kind: MochiFineTune\nspec: [", "cannot be read"),
        ("[" * 100_000, "it is nested too deeply"),
        ("kind: MochiFineTune\nspec: {mode: 2026-13-45}", "month must be in 1..12"),
        (
            LORA.read_text().replace("frames: 37", "frames: 91"),
            "frames must be at most 85 with mode lora",
        ),
    ],
    ids=["field", "YAML", "depth", "date", "rule"],
)
def test_a_file_that_is_wrong_is_said(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=words):
        answer(path)


def test_an_unknown_product_is_said() -> None:
    with pytest.raises(InvalidInputError, match=r"--gpu must be one of NVIDIA-B200, .*, got H100"):
        answer(LORA, gpu="H100")


def test_a_product_is_known_in_any_case() -> None:
    assert answer(LORA, gpu="nvidia-h200") == answer(LORA, gpu="NVIDIA-H200")


def test_both_ways_to_name_the_file_are_one_too_many() -> None:
    assert main(["plan", str(LORA), "--run", str(LORA)]) == 2
    assert main(["plan"]) == 2


def test_it_does_without_torch() -> None:
    program = (
        "import sys; from mochi_trainer.__main__ import main; "
        f"code = main(['plan', {str(LORA)!r}, '--json']); "
        "sys.exit(code or int('torch' in sys.modules) * 99)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mode"] == "lora"
