"""Where a training learns its clips by heart, the checkpoint before that is found, kept and exported."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mochi_trainer.jobs import train
from mochi_trainer.jobs.finished import Finished
from tests.trainer.distributed import free_port
from tests.trainer.overtraining import EVERY, overtrained
from tests.trainer.training_runs import run_file, write_dataset

OPTIONS: dict[str, Any] = {
    "steps": 60,
    "learningRate": "0.02",
    "schedule": "Constant",
    "checkpoint": {"everySteps": 10, "keepLast": 1},
    "validation": {"clips": 2},
    "lora": {"rank": 16, "alpha": 32, "targets": ["query", "key", "value", "output", "mlp_in", "mlp_out"]},
}
"""A rate at which the loss of clips that are nothing but noise soon rises."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    root = tmp_path_factory.mktemp("best")
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    write_dataset(root, clips=4, spread=3.0)
    return root, train.execute(run_file(root, name="over", **OPTIONS))


def lines(root: Path, name: str) -> dict[int, dict[str, Any]]:
    found = map(json.loads, (root / "runs" / name / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in found}


def complete(root: Path, name: str) -> list[str]:
    folder = root / "runs" / name / "checkpoints"
    return sorted(each.name for each in folder.iterdir() if (each / "manifest.json").exists())


def test_the_best_checkpoint_is_kept_although_it_is_old(run: tuple[Path, Finished]) -> None:
    root, finished = run
    result = finished.result
    assert result is not None
    best = result.best_step  # type: ignore[union-attr]
    losses = {
        step: line["heldOutLoss"] for step, line in lines(root, "over").items() if line.get("checkpoint")
    }
    assert set(losses) == set(range(10, 61, 10))
    assert losses[best] == min(losses.values()) == result.best_held_out_loss  # type: ignore[union-attr]
    assert best < 60
    assert complete(root, "over") == [f"step-{best:06d}", "step-000060"]


def test_its_adapter_is_stored_beside_the_last_one(run: tuple[Path, Finished]) -> None:
    """It is what a run of so many steps would have left."""
    root, finished = run
    best = finished.result.best_step  # type: ignore[union-attr]
    train.execute(run_file(root, name="short", **(OPTIONS | {"steps": best})))
    ours = load_file(root / "runs/over/artifacts/lora-best.safetensors")
    theirs = load_file(root / "runs/short/artifacts/lora.safetensors")
    last = load_file(root / "runs/over/artifacts/lora.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not all(torch.equal(ours[name], last[name]) for name in last)
    assert not (root / "runs/short/artifacts/lora-best.safetensors").exists()


def test_a_resumed_run_finds_the_same_best(run: tuple[Path, Finished]) -> None:
    root, finished = run
    target = root / "runs" / "again"
    shutil.copytree(root / "runs/over", target)
    shutil.rmtree(target / "artifacts")
    again = train.execute(run_file(root, name="again", **OPTIONS))
    assert again.details["resumedFromStep"] == 60
    assert again.result.best_step == finished.result.best_step  # type: ignore[union-attr]
    assert (target / "artifacts/lora-best.safetensors").exists()


def test_a_best_checkpoint_that_is_gone_is_not_named(run: tuple[Path, Finished]) -> None:
    root, finished = run
    target = root / "runs" / "lost"
    shutil.copytree(root / "runs/over", target)
    best = finished.result.best_step  # type: ignore[union-attr]
    shutil.rmtree(target / "checkpoints" / f"step-{best:06d}")
    assert train.execute(run_file(root, name="lost", **OPTIONS)).result.best_step == 60  # type: ignore[union-attr]


def test_the_best_is_within_one_checkpoint_of_the_true_minimum(tmp_path: Path) -> None:
    """The truth is the loss of clips that the run never sees; `python -m tests.bench.best_checkpoint` takes ten seeds."""
    found = overtrained(tmp_path, 1)
    assert abs(found.best - found.truth) <= EVERY
    assert found.losses[max(found.losses)] > found.losses[found.truth]
