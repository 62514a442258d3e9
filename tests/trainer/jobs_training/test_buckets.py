"""Training on clips of several sizes and on still images: each in its own size, resumed without a difference, on any ranks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from mochi_api.runfile import RunFile, World
from mochi_trainer.data import Dataset
from mochi_trainer.jobs import compiler, train
from mochi_trainer.train import compiler_check, feeding
from mochi_trainer.train.draws import Example
from tests.trainer.distributed import free_port, run_distributed
from tests.trainer.jobs_preprocessing.test_buckets import made, write_sources

STEPS: dict[str, Any] = {
    "steps": 6,
    "learningRate": "0.002",
    "schedule": "Constant",
    "checkpoint": {"everySteps": 2, "keepLast": 10},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """A run file of the stage train over five clips of five sizes."""
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("trained")
    write_sources(root / "source")
    return made(root, videos={"reconstructEvery": 0})[0]


def run_of(given: RunFile, name: str, *, mode: str = "lora", ranks: int = 1, **training: Any) -> RunFile:
    raw = given.model_dump(mode="json", by_alias=True)
    raw["mode"], raw["world"] = mode, {"replicas": ranks}
    raw["training"] = {
        **STEPS,
        "globalBatchSize": ranks,
        **({"lora": {"rank": 4}} if mode == "lora" else {}),
    } | training
    raw["locations"]["run"] = f"{raw['locations']['run']}-{name}"
    return RunFile.model_validate(raw)


def folder(run: RunFile) -> Path:
    return Path(run.locations.run.removeprefix("file://"))


def result(run: RunFile) -> tuple[list[float], dict[str, Any]]:
    """The losses, and the numbers of the main artifact."""
    lines = map(json.loads, (folder(run) / "metrics.jsonl").read_text().splitlines())
    name = "lora" if run.mode == "lora" else "dit"
    tensors = load_file(folder(run) / f"artifacts/{name}.safetensors")
    return [line["loss"] for line in lines if "loss" in line], {k: t.tolist() for k, t in tensors.items()}


def seen(run: RunFile) -> list[list[tuple[int, ...]]]:
    """The shapes that each rank's steps were given."""
    return run_distributed(_seen, run.world.processes, run)


def _seen(run: RunFile) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    before = feeding.example

    def noted(*given: Any, **named: Any) -> Example:
        made = before(*given, **named)
        shapes.append(tuple(made.x.shape))
        return made

    feeding.example = noted
    train.execute(run)
    return shapes


def test_each_clip_is_trained_on_in_its_own_size_once_an_epoch(dataset: RunFile) -> None:
    run = run_of(dataset, "epoch", steps=10)
    (shapes,) = seen(run)
    with Dataset.open(run) as opened:
        sizes = [(1, 12, (f - 1) // 6 + 1, h // 8, w // 8) for f, w, h in opened.sizes]
    assert len(set(sizes)) == 5
    for epoch in (shapes[:5], shapes[5:10]):
        assert sorted(epoch) == sorted(sizes)
    losses, _ = result(run)
    assert all(loss > 0 for loss in losses)


def _compiled(run: RunFile) -> tuple[int, list[str]]:
    """Train with compiled blocks: how many graphs the training had, and where they broke."""
    os.environ["MOCHI_COMPILE"] = "aot_eager"
    before = compiler_check.trouble

    def checked(*given: Any, **named: Any) -> str:
        found = before(*given, **named)
        counters.clear()
        return found

    compiler.trouble = checked
    train.execute(run)
    return counters["stats"]["unique_graphs"], list(counters["graph_break"])


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_compiled_once_for_all_sizes_it_is_the_same_training(dataset: RunFile, mode: str) -> None:
    """Two kinds of blocks, while they train and while they are evaluated."""
    asked: dict[str, Any] = {"mode": mode} | ({"ema": {"decay": "0.9"}} if mode == "full" else {})
    ours, theirs = run_of(dataset, f"compiled-{mode}", **asked), run_of(dataset, f"eager-{mode}", **asked)
    assert run_distributed(_compiled, 1, ours, limit=400) == [(4, [])]
    run_distributed(train.execute, 1, theirs)
    assert_alike(ours, theirs)


def test_a_resume_equals_not_stopping(dataset: RunFile) -> None:
    whole, stopped = run_of(dataset, "whole"), run_of(dataset, "stopped", steps=4)
    for run in (whole, stopped, run_of(dataset, "stopped")):
        train.execute(run)
    assert result(run_of(dataset, "stopped")) == result(whole)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_ranks_with_clips_of_different_sizes_agree_with_one_rank(dataset: RunFile, mode: str) -> None:
    """Two clips a step: five sizes of one clip each never go together."""
    two = run_of(dataset, f"two-{mode}", mode=mode, ranks=2, steps=3)
    first, second = seen(two)
    assert any(one != other for one, other in zip(first, second, strict=True))
    one = run_of(dataset, f"one-{mode}", mode=mode, steps=3, globalBatchSize=2)
    run_distributed(train.execute, 1, one)
    assert_alike(two, one)


def assert_alike(ours: RunFile, theirs: RunFile) -> None:
    (losses, weights), (exact_losses, exact_weights) = result(ours), result(theirs)
    assert losses == pytest.approx(exact_losses, rel=1e-5)
    apart, whole = 0.0, 0.0
    for name, numbers in exact_weights.items():
        exact = torch.tensor(numbers).double()
        apart += float(((torch.tensor(weights[name]).double() - exact) ** 2).sum())
        whole += float((exact**2).sum())
    assert (apart / whole) ** 0.5 <= 1e-4  # AdamW makes much of gradients that are nothing but rounding


def test_copies_shared_clips_sizes_and_an_average_go_together(
    dataset: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pods of two processes: a copy of the weights in each, a clip on both processes of a pod; stopped in between."""
    asked: dict[str, Any] = {"mode": "full", "globalBatchSize": 2, "ema": {"decay": "0.9"}}
    one = run_of(dataset, "alone", steps=4, **asked)
    run_distributed(train.execute, 1, one)
    monkeypatch.setenv("MOCHI_WEIGHT_COPIES", "2")
    four = run_of(dataset, "together", steps=4, contextParallel=2, **asked).model_copy(
        update={"world": World(replicas=2, gpus_per_pod=2)}
    )
    half = four.model_copy(update={"training": four.training.model_copy(update={"steps": 2})})
    run_distributed(train.execute, 4, half)
    run_distributed(train.execute, 4, four)
    assert_alike(four, one)
