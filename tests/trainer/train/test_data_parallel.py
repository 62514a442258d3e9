"""Mode lora over several GPUs: every rank has the whole model and its own clips, and all of them the same adapter.

Measured on one CPU with `nano` in float32, six steps: on two ranks no bit differs from one rank; on three the losses by at
most 9.4e-8, a matrix of the adapter by at most 9.9e-7 of its size. The bounds are ten times that.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from mochi_api.runfile import RunFile
from mochi_trainer.jobs import train
from mochi_trainer.lora import trainable_parameters
from mochi_trainer.parallel.group import joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.train.step import StepRecord, optimizer_step
from tests.trainer.distributed import free_port, run_distributed
from tests.trainer.train.test_composition import CLIPS, CPU, composed, inputs
from tests.trainer.training_runs import run_file, write_dataset

LOSS, ADAPTER = 1e-6, 1e-5
"""Largest relative difference between three ranks and one: of a loss; of a matrix of the adapter, as one vector."""


class Clip:
    """An example whose caption may be empty, so that adapters of the text have nothing to learn from on its rank."""

    def __init__(self, number: int) -> None:
        self._number = number

    def loss(self, model: nn.Module) -> Tensor:
        *given, answer = inputs(self._number)
        return mse_loss(model(*given), answer)


def trained(steps: int) -> tuple[list[StepRecord], dict[str, Any]]:
    """The steps of this rank, and its adapter after them."""
    torch.manual_seed(11)
    world = int(os.environ["WORLD_SIZE"])
    with joined(ranks_of(os.environ, processes=world), CPU, limit=60) as group:
        made = composed("lora", group, compute=torch.float32, left_alone=0)
        share = CLIPS // world
        own = range(group.rank * share, (group.rank + 1) * share)
        records = [
            optimizer_step(
                made.model, made.optimizer, [Clip(number) for number in own],  # type: ignore[misc]
                step=step, share=share, rate=0.01, clip=0.05, group=group,
            )
            for step in range(1, steps + 1)
        ]  # fmt: skip
        return records, {
            name: p.detach().numpy().copy() for name, p in trainable_parameters(made.model).items()
        }


def test_two_ranks_have_the_same_adapter_which_is_that_of_one_rank_bit_for_bit() -> None:
    """Halves are exact, and two sums have one order."""
    (alone, expected), *_ = run_distributed(trained, 1, 6)
    (one, ours), (other, theirs) = run_distributed(trained, 2, 6)
    assert [(r.loss, r.gradient_norm) for r in one] == [(r.loss, r.gradient_norm) for r in other]
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert [(r.loss, r.gradient_norm) for r in one] == [(r.loss, r.gradient_norm) for r in alone]
    assert all((ours[name] == matrix).all() for name, matrix in expected.items())
    assert min(record.gradient_norm for record in alone) > 0.05  # the gradient was clipped


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data-parallel")
    write_dataset(folder)
    return folder


def lora(root: Path, name: str, replicas: int, **training: Any) -> RunFile:
    return run_file(root, name=name, replicas=replicas, globalBatchSize=3, **training)


@pytest.fixture(scope="module")
def three(root: Path) -> Path:
    """The folder of a run on three ranks."""
    first, *others = run_distributed(train.execute, 3, lora(root, "three", 3))
    assert first.result is not None
    assert first.details["ranks"] == 3
    assert [other.result for other in others] == [None, None]
    return root / "runs/three"


@pytest.fixture(scope="module")
def one(root: Path) -> Path:
    """The folder of the same run on one rank."""
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    train.execute(lora(root, "one", 1))
    return root / "runs/one"


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def assert_near(one: Path, other: Path) -> None:
    assert len(losses(one)) == len(losses(other))
    assert losses(other) == pytest.approx(losses(one), rel=LOSS)
    ours, theirs = (load_file(folder / "artifacts/lora.safetensors") for folder in (other, one))
    assert ours.keys() == theirs.keys()
    for name, matrix in theirs.items():
        assert float((ours[name] - matrix).norm()) <= ADAPTER * float(matrix.norm()), name


def test_a_run_on_three_ranks_is_nearly_that_on_one(one: Path, three: Path) -> None:
    assert_near(one, three)


def test_everything_is_stored_once(one: Path, three: Path) -> None:
    """The files of one rank, and of each checkpoint further shards without any tensor."""
    found, expected = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (three, one)
    )
    for step in (2, 4, 6):
        shards = [f"checkpoints/step-{step:06d}/shard-{rank:05d}-of-00003.safetensors" for rank in range(3)]
        assert [bool(load_file(three / shard)) for shard in shards] == [True, False, False]
        found -= set(shards)
        expected -= {f"checkpoints/step-{step:06d}/shard-00000-of-00001.safetensors"}
    assert found == expected


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)])
def test_another_number_of_ranks_goes_on_from_a_checkpoint(
    root: Path, one: Path, three: Path, before: int, after: int
) -> None:
    name = f"from-{before}-to-{after}"
    folder = root / "runs" / name
    shutil.copytree(three if before == 3 else one, folder)
    shutil.rmtree(folder / "checkpoints/step-000006")
    shutil.rmtree(folder / "artifacts")
    first, *_ = run_distributed(train.execute, after, lora(root, name, after))
    assert first.details["resumedFromStep"] == 4
    assert_near(one, folder)


def test_resuming_on_three_ranks_equals_not_stopping_bit_for_bit(root: Path, three: Path) -> None:
    folder = root / "runs/again"
    shutil.copytree(three, folder)
    shutil.rmtree(folder / "checkpoints/step-000006")
    shutil.rmtree(folder / "artifacts")
    first, *_ = run_distributed(train.execute, 3, lora(root, "again", 3))
    assert first.details["resumedFromStep"] == 4
    ours, theirs = (load_file(each / "artifacts/lora.safetensors") for each in (folder, three))
    assert all(ours[name].equal(tensor) for name, tensor in theirs.items())
    assert losses(folder) == losses(three)
