"""A full run with a moving average of its weights: what it leaves, what it evaluates, and what a resume makes of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs import train
from tests.trainer.distributed import free_port, run_distributed
from tests.trainer.training_runs import run_file, write_dataset

FULL: dict[str, Any] = {
    "mode": "full",
    "learningRate": "0.003",
    "schedule": "Constant",
    "globalBatchSize": 2,
    "checkpoint": {"everySteps": 2, "keepLast": 10},
}
EMA = {"ema": {"decay": "0.7"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ema")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _port() -> None:
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)


def run(root: Path, name: str, *, ranks: int = 1, **options: Any) -> Path:
    given = run_file(root, name=name, replicas=ranks, **FULL | options)
    run_distributed(train.execute, ranks, given)
    return root / "runs" / name


@pytest.fixture(scope="module")
def plain(root: Path) -> Path:
    return run(root, "plain")


@pytest.fixture(scope="module")
def averaged(root: Path) -> Path:
    return run(root, "averaged", **EMA)


def weights(folder: Path, name: str = "dit") -> dict[str, torch.Tensor]:
    return load_file(folder / f"artifacts/{name}.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def series(folder: Path, field: str) -> list[Any]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[field] for line in lines if field in line]


def shard(folder: Path, step: int) -> dict[str, torch.Tensor]:
    (path,) = folder.glob(f"checkpoints/step-{step:06d}/shard-00000-*")
    return load_file(path)


def test_training_is_not_touched_and_both_weights_are_left(plain: Path, averaged: Path) -> None:
    assert series(averaged, "loss") == series(plain, "loss")
    assert equal(weights(averaged, "dit-unaveraged"), weights(plain))
    assert not equal(weights(averaged), weights(plain))
    assert not (plain / "artifacts/dit-unaveraged.safetensors").exists()
    saved = {k.removeprefix("ema/"): v for k, v in shard(averaged, 6).items() if k.startswith("ema/")}
    assert equal(weights(averaged), saved)
    with safe_open(averaged / "artifacts/dit.safetensors", framework="pt") as file:
        assert file.metadata()["ema"] == "0.7"
    card = (averaged / "artifacts/README.md").read_text()
    assert "`dit.safetensors` is a moving average of the weights of all steps, with decay 0.7" in card
    assert "dit-unaveraged.safetensors |" in card


def test_the_loss_of_the_fixed_batch_is_that_of_the_average(root: Path, plain: Path, averaged: Path) -> None:
    ours, theirs = series(averaged, "fixedLoss"), series(plain, "fixedLoss")
    assert ours[0] == theirs[0]
    assert all(one != other for one, other in zip(ours[1:], theirs[1:], strict=True))
    given = run_file(root, name="evaluated", steps=1, **{k: v for k, v in FULL.items() if k != "steps"})
    base = root / "average"
    base.mkdir()
    (base / "dit.safetensors").write_bytes((averaged / "artifacts/dit.safetensors").read_bytes())
    places = given.locations.model_copy(update={"model": f"file://{base}"})
    run_distributed(train.execute, 1, given.model_copy(update={"locations": places}))
    assert series(root / "runs/evaluated", "fixedLoss")[0] == pytest.approx(ours[-1], rel=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resume_equals_not_stopping(root: Path, averaged: Path, ranks: int) -> None:
    whole = averaged if ranks == 1 else run(root, "whole", ranks=ranks, **EMA)
    run(root, f"stopped-{ranks}", ranks=ranks, steps=4, **EMA)
    resumed = run(root, f"stopped-{ranks}", ranks=ranks, **EMA)
    for name in ("dit", "dit-unaveraged"):
        assert equal(weights(resumed, name), weights(whole, name))
    assert series(resumed, "fixedLoss") == series(whole, "fixedLoss")


def test_another_number_of_ranks_finds_the_average(root: Path, averaged: Path) -> None:
    """Step 4 is the last one: nothing is trained again, what is left is what was read."""
    ranks = run(root, "gathered", ranks=2, steps=4, **EMA)
    again = run(root, "gathered", ranks=1, steps=4, **EMA)
    manifest = json.loads((ranks / "checkpoints/step-000004/manifest.json").read_text())
    assert manifest["details"]["averageUpdates"] == 4
    parts = [load_file(path) for path in sorted(ranks.glob("checkpoints/step-000004/shard-*"))]
    stored = {
        name: torch.cat([part[f"ema/{name}"] for part in parts if f"ema/{name}" in part])
        for name in weights(again)
    }
    assert equal(weights(again), stored)


def test_a_checkpoint_without_an_average_begins_one_and_one_with_it_needs_none(
    root: Path, plain: Path, averaged: Path
) -> None:
    """As a run of an older version leaves it, and as an older version reads ours."""
    older = gone_on(root, "older", plain, steps=7, **EMA)
    manifest = json.loads((older / "checkpoints/step-000007/manifest.json").read_text())
    assert manifest["details"]["averageUpdates"] == 1
    before, after = (shard(folder, step) for folder, step in ((plain, 6), (older, 7)))
    for name in weights(plain):
        start, end = before[f"weight/{name}"].double(), after[f"weight/{name}"].double()
        expected = (2 / 11) * start + (9 / 11) * end
        assert torch.allclose(after[f"ema/{name}"].double(), expected, rtol=1e-6, atol=1e-7), name
    without, alone = (gone_on(root, f"from-{f.name}", f, steps=7) for f in (averaged, plain))
    assert equal(weights(without), weights(alone))


def gone_on(root: Path, name: str, earlier: Path, **options: Any) -> Path:
    shutil.copytree(earlier / "checkpoints", root / "runs" / name / "checkpoints")
    return run(root, name, **options)


def test_an_adapter_has_no_average(root: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"training\.ema must be left out with mode lora"):
        train.execute(run_file(root, name="adapter", **EMA))
