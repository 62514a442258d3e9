"""Mode full with several clips a rank: gradients summed over the ranks once a step, or with each clip, are the same training."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from mochi_api.prediction.fitting import SPARE, least_needed, once_in_room
from mochi_api.prediction.seconds import traffic, traffic_between_copies
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.work import Work
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs import train
from mochi_trainer.jobs.gradient_sums import synchronised_once
from mochi_trainer.parallel.gradients import VARIABLE
from mochi_trainer.presets import preset_named
from tests.trainer.distributed import run_distributed
from tests.trainer.jobs_training.test_weight_copies import CPU, Told
from tests.trainer.training_runs import run_file, write_dataset

STEPS, CLIPS = 3, 3
FULL: dict[str, Any] = {"mode": "full", "replicas": 2, "learningRate": "0.001", "steps": STEPS}
FULL |= {"globalBatchSize": 2 * CLIPS, "checkpoint": {"everySteps": STEPS}, "gradientClip": "0.01"}


class Sums(TorchDispatchMode):
    """Counts what is summed over the ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def _trained(root: Path, name: str) -> int:
    with Sums() as sums:
        train.execute(run_file(root, name=name, **FULL))
    return sum(count for name, count in sums.counts.items() if "reduce_scatter" in name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[int]]]:
    """By what the variable says: the run's folder, and how often each of two ranks has scattered sums."""
    root, found = tmp_path_factory.mktemp("sums"), {}
    write_dataset(root)
    with pytest.MonkeyPatch.context() as patch:
        for said in ("0", "1"):
            patch.setenv(VARIABLE, said)
            found[said] = root / "runs" / said, run_distributed(_trained, 2, root, said)
    return found


def series(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_losses_and_weights_are_the_same(trained: dict[str, tuple[Path, list[int]]]) -> None:
    (each, _), (once, _) = trained["0"], trained["1"]
    for name in ("loss", "gradNorm"):
        assert len(series(once, name)) == STEPS
        assert series(once, name) == pytest.approx(series(each, name), rel=1e-5)
    ours, theirs = (load_file(folder / "artifacts/dit.safetensors") for folder in (once, each))
    assert ours.keys() == theirs.keys()
    apart = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in theirs)
    whole = sum(float(each.double().square().sum()) for each in theirs.values())
    assert (apart / whole) ** 0.5 <= 1e-4  # AdamW makes much of gradients that are nothing but rounding


def test_each_part_of_the_model_is_summed_once_a_step_or_with_each_clip(
    trained: dict[str, tuple[Path, list[int]]],
) -> None:
    """The blocks, and what is around them."""
    parts = preset_named("nano").dit.depth + 1
    assert trained["0"][1] == [parts * CLIPS * STEPS] * 2
    assert trained["1"][1] == [parts * STEPS] * 2


EIGHT = Work(mode="full", network=NETWORKS["mochi-1"], frames=37, width=848, height=480, world=8, share=4)


def test_gradients_are_kept_whole_where_there_is_room_and_a_spare_part() -> None:
    need = least_needed(replace(EIGHT, synchronise_once=True))
    enough = need * SPARE // (SPARE - 1) + 1
    assert once_in_room(EIGHT, enough)
    assert not once_in_room(EIGHT, enough - SPARE)
    whole, part = 4 * EIGHT.network.parameters, 4 * EIGHT.network.parameters // 8
    assert need - least_needed(EIGHT) == pytest.approx(whole - part, rel=0.06)


@pytest.mark.parametrize(
    "change", [{"share": 1}, {"world": 1}, {"mode": "lora"}], ids=["one clip", "one rank", "lora"]
)
def test_where_there_is_nothing_to_save_it_is_not_done(change: dict[str, Any]) -> None:
    assert not once_in_room(replace(EIGHT, **change), 1 << 50)


def test_weights_come_with_each_clip_and_gradients_go_once() -> None:
    once, share = replace(EIGHT, synchronise_once=True), 4 * EIGHT.network.parameters * 7 // 8
    assert traffic(EIGHT) == pytest.approx(8 * share, rel=1e-9)
    assert traffic(once) == pytest.approx(5 * share, rel=1e-9)
    copies = replace(EIGHT, world=16, pods=2, copies=2)
    assert traffic_between_copies(copies) == pytest.approx(
        4 * traffic_between_copies(replace(copies, synchronise_once=True)), rel=1e-9
    )


@pytest.mark.parametrize(("text", "once"), [("", False), ("0", False), ("1", True)])
def test_the_environment_says_it_and_on_a_cpu_it_is_not_done_otherwise(text: str, once: bool) -> None:
    run = run_file(Path("/nowhere"), **FULL)
    environ = {VARIABLE: text} if text else {}
    assert synchronised_once(run, Told(world=2), CPU, environ, copies=1) is once
    one = run_file(Path("/nowhere"), **FULL | {"globalBatchSize": 2})
    assert not synchronised_once(one, Told(world=2), CPU, environ, copies=1)


def test_what_is_neither_0_nor_1_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="MOCHI_SYNCHRONISE_ONCE must be 0 or 1, got 'yes'"):
        synchronised_once(run_file(Path("/nowhere"), **FULL), Told(world=2), CPU, {VARIABLE: "yes"}, copies=1)
