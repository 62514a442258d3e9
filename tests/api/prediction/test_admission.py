"""What is refused before it takes a GPU, in which words, and what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mochi_api.prediction.admission import memory_problem, predicted_memory
from mochi_api.prediction.work import work_of
from mochi_api.rules import violations
from mochi_api.spec import FineTuneSpec

EXAMPLES = sorted((Path(__file__).resolve().parents[3] / "examples").glob("*.yaml"))

LARGE = {"frames": 85, "width": 848, "height": 480}


def spec(mode: str = "lora", *, preset: str = "mochi-1", **sections) -> FineTuneSpec:
    return FineTuneSpec.model_validate(
        {
            "mode": mode,
            "model": {"preset": preset, "source": {"s3": {"uri": "s3://models/mochi/"}}},
            "dataset": {"source": {"s3": {"uri": "s3://clips/"}}},
            "storage": {"outputURI": "s3://runs/"},
            **sections,
        }
    )


def on(*products: str, **other) -> dict:
    return {"workers": {"gpuProducts": list(products), **other}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_fits(path: Path) -> None:
    found = FineTuneSpec.model_validate(yaml.safe_load(path.read_text())["spec"])
    assert memory_problem(found) is None
    assert (predicted_memory(found) is None) is (found.model.preset == "nano")


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_defaults_fit(mode: str) -> None:
    assert memory_problem(spec(mode)) is None
    assert 27 < float(predicted_memory(spec(mode)) or 0) < 30


@pytest.mark.parametrize("kind", ["Int8", "Float8"])
@pytest.mark.parametrize(("product", "frames"), [("NVIDIA-L4", 37), ("NVIDIA-GeForce-RTX-5090", 85)])
def test_a_narrow_base_fits_where_the_published_one_does_not(kind: str, product: str, frames: int) -> None:
    sections = {"preprocessing": {"frames": frames}, **on(product)}
    assert memory_problem(spec("lora", **sections)) is not None
    assert memory_problem(spec("lora", training={"lora": {"baseWeights": kind}}, **sections)) is None


@pytest.mark.parametrize(
    ("product", "frames", "blocks", "kind"),
    [
        ("NVIDIA-L4", 37, 20, "BFloat16"),
        ("NVIDIA-GeForce-RTX-4090", 85, 46, "Int8"),
        ("NVIDIA-L40S", 163, 31, "BFloat16"),
    ],
)
def test_with_blocks_in_host_memory_it_fits(product: str, frames: int, blocks: int, kind: str) -> None:
    sections = {"limits": "Memory", "preprocessing": {"frames": frames}, **on(product)}
    assert memory_problem(spec("lora", **sections)) is not None
    lora = {"blocksToSwap": blocks, "baseWeights": kind}
    assert memory_problem(spec("lora", training={"lora": lora}, **sections)) is None


@pytest.mark.parametrize(
    ("mode", "sections", "message"),
    [
        (
            "lora",
            {"preprocessing": {"frames": 85}, **on("NVIDIA-GeForce-RTX-5090")},
            "spec.workers.gpuProducts must name a GPU with at least 37.8 GiB free for mode lora with 85 frames of 848x480 "
            "on 1 GPU, got NVIDIA-GeForce-RTX-5090 with 30.8 GiB; what would fit: preprocessing.frames 49, or "
            "training.lora.baseWeights Int8, or training.lora.blocksToSwap 20, or a GPU such as NVIDIA-A100-PCIE-40GB",
        ),
        (
            "full",
            {"preprocessing": {"frames": 163}, **on("NVIDIA-L40S", "NVIDIA-L4")},
            "spec.workers.gpuProducts must name a GPU with at least 56.8 GiB free for mode full with 163 frames of "
            "848x480 on 8 GPUs, got NVIDIA-L40S with 44.0 GiB; what would fit: preprocessing.frames 103, or a GPU such "
            "as NVIDIA-H100-PCIe",
        ),
        (
            "full",
            on("NVIDIA-H100-80GB-HBM3", replicas=1),
            "spec.workers.gpuProducts must name a GPU with at least 156.6 GiB free for mode full with 37 frames of "
            "848x480 on 1 GPU, got NVIDIA-H100-80GB-HBM3 with 78.6 GiB; what would fit: 3 GPUs (workers.replicas x "
            "gpusPerPod), or a GPU such as NVIDIA-B200",
        ),
        (
            "lora",
            {"limits": "Memory", "preprocessing": {"frames": 163}, **on("NVIDIA-L40S", gpusPerPod=8)},
            "spec.workers.gpuProducts must name a GPU with at least 54.8 GiB free for mode lora with 163 frames of "
            "848x480 on 8 GPUs, got NVIDIA-L40S with 44.0 GiB; what would fit: preprocessing.frames 109, or "
            "training.contextParallel 2, or training.lora.blocksToSwap 30, or a GPU such as NVIDIA-H100-PCIe",
        ),
    ],
    ids=["lora", "the largest is named", "one pod", "lora on eight"],
)
def test_what_cannot_fit_is_refused(mode: str, sections: dict, message: str) -> None:
    assert memory_problem(spec(mode, **sections)) == message


@pytest.mark.parametrize(
    "workers",
    [
        on(),
        on("NVIDIA-Future-100"),
        on("NVIDIA-L4", "NVIDIA-Future-100"),
        on("NVIDIA-L4-SHARED"),
        on("NVIDIA-L4", gpusPerPod=0),
        on("NVIDIA-L4", "NVIDIA-H200"),
    ],
    ids=["any product", "unknown", "one unknown", "shared", "no GPU", "one that fits"],
)
def test_nothing_is_refused_where_it_may_fit(workers: dict) -> None:
    assert memory_problem(spec("full", preprocessing={"frames": 163}, **workers)) is None


def test_with_the_limits_of_memory_lora_takes_163_frames_and_several_gpus_which_do_not_share_the_model() -> (
    None
):
    found = {
        gpus: spec(limits="Memory", preprocessing={"frames": 163}, workers={"gpusPerPod": gpus})
        for gpus in (1, 8)
    }
    assert [violations(each) or memory_problem(each) for each in found.values()] == [None, None]
    one, eight = (float(predicted_memory(each) or 0) for each in found.values())
    assert eight == pytest.approx(one + 1, abs=0.1)  # only what NCCL takes comes on top


def test_gpus_of_one_pod_count_like_those_of_several() -> None:
    wide, tall = (
        spec("full", **on("NVIDIA-H100-80GB-HBM3", replicas=r, gpusPerPod=g)) for r, g in ((1, 8), (8, 1))
    )
    assert replace(work_of(wide), pods=8) == work_of(tall)
    assert predicted_memory(wide) == predicted_memory(tall)


def test_the_small_model_fits_everywhere() -> None:
    found = spec(preset="nano", **on("NVIDIA-L4", gpusPerPod=1))
    assert memory_problem(found) is None
    assert float(predicted_memory(found) or 9) < 1


@pytest.mark.parametrize(
    ("place", "own", "buckets"),
    [
        ("preprocessing", 85, [{"frames": 1, "width": 848, "height": 480}]),
        ("preprocessing.buckets[1]", 7, [{"frames": 1, "width": 848, "height": 480}, LARGE]),
    ],
)
def test_what_does_not_fit_is_named_where_the_spec_has_it(place: str, own: int, buckets: list[dict]) -> None:
    sections = {
        "preprocessing": {"frames": own, "buckets": buckets},
        **on("NVIDIA-GeForce-RTX-5090", gpusPerPod=1),
    }
    message = memory_problem(spec("lora", **sections)) or ""
    count = len(buckets) + 1
    assert (
        f"for mode lora with 85 frames of 848x480, the largest of {count} sizes ({place}), on 1 GPU"
        in message
    )
    advice = message.partition("; what would fit: ")[2].split(", or ")
    [frames] = [change for change in advice if "frames" in change]
    assert frames.startswith(f"{place}.frames ")
    shorter = int(frames.rpartition(" ")[2])
    changed = [{**each, "frames": shorter} if each is LARGE else each for each in buckets]
    sections["preprocessing"] = {"frames": own if LARGE in buckets else shorter, "buckets": changed}
    assert memory_problem(spec("lora", **sections)) is None


def test_the_largest_size_decides_whatever_its_place() -> None:
    larger = {"frames": 85, "width": 848, "height": 480}
    small = {"frames": 7, "width": 320, "height": 192}
    both = spec("lora", preprocessing={**small, "buckets": [{**small, "frames": 1}, larger]})
    assert predicted_memory(both) == predicted_memory(spec("lora", preprocessing=larger))
    assert work_of(both).frames == 85
