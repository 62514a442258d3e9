"""A run whose clips are shared by the processes of a pod is nearly the run of one process.

Measured on one CPU with `nano` in float32, four clipped steps: losses and norms differ by at most 3.8e-7 of themselves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mochi_api.outcomes import Reason
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs import train
from tests.trainer.distributed import run_distributed
from tests.trainer.jobs_training.test_processes import Pod, pods
from tests.trainer.training_runs import run_file, write_dataset

NEAR = 1e-5
"""Largest relative difference of a loss or norm."""
MODES: dict[str, dict[str, Any]] = {"lora": {}, "full": {"mode": "full", "learningRate": "0.001"}}
STEPS: dict[str, Any] = {"steps": 4, "gradientClip": "0.05", "checkpoint": {"everySteps": 2, "keepLast": 10}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("context")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, list[float]]:
    """By mode the numbers of a run in one process."""
    for mode, options in MODES.items():
        run_distributed(train.execute, 1, run_file(root, name=mode, **options, **STEPS))
    return {mode: numbers(root / "runs" / mode) for mode in MODES}


def numbers(folder: Path) -> list[float]:
    """Losses of steps, by share of noise too, and of evaluations, and norms of gradients, in their order."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "gradNorm", "fixedLoss")
    told = [[*(line.get(name) for name in names), *line.get("lossBySigma", ())] for line in lines]
    return [value for line in told for value in line if value is not None]


def test_a_pod_of_two_processes_trains_each_clip_together(
    root: Path, alone: dict[str, list[float]], tmp_path: Path
) -> None:
    run = run_file(root, name="pod", gpus=2, contextParallel=2, **MODES["full"], **STEPS)
    with pods(Pod(run, tmp_path)) as (pod,):
        code, outcome = pod.ended()
    assert (code, outcome.reason) == (0, Reason.COMPLETED)
    assert numbers(root / "runs/pod") == pytest.approx(alone["full"], rel=NEAR)


@pytest.mark.parametrize("mode", list(MODES))
def test_two_sets_of_two_train_as_one_process(root: Path, alone: dict[str, list[float]], mode: str) -> None:
    run = run_file(root, name=f"{mode}-shared", gpus=4, contextParallel=2, **MODES[mode], **STEPS)
    run_distributed(train.execute, 4, run)
    found = numbers(root / "runs" / f"{mode}-shared")
    assert len(found) == len(alone[mode]) >= 2 * STEPS["steps"] + 3
    assert found == pytest.approx(alone[mode], rel=NEAR)


def test_processes_of_several_pods_do_not_share_a_clip(root: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"must divide the 1 processes of a pod \(world.gpusPerPod\), got 2"
    ):
        train.execute(run_file(root, name="apart", replicas=2, contextParallel=2))
