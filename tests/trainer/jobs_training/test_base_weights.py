"""A LoRA trained on a base of one byte a number: its own file and checkpoints as ever, and almost what it learns.

On one whose blocks wait in host memory: just what it learns.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mochi_trainer import host_memory
from mochi_trainer.errors import OutOfMemoryError
from mochi_trainer.jobs import train
from tests.trainer.distributed import free_port
from tests.trainer.training_runs import run_file, write_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("narrow")
    write_dataset(folder)
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    train.execute(run_file(folder, name="BFloat16", lora={"rank": 4, "alpha": 8}))
    return folder


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["fixedLoss"] for line in lines if "fixedLoss" in line]


@pytest.mark.parametrize("kind", ["Int8", "Float8"])
def test_it_learns_the_same_and_resumes_bit_for_bit(root: Path, kind: str) -> None:
    options: dict[str, Any] = {"lora": {"rank": 4, "alpha": 8, "baseWeights": kind}}
    train.execute(run_file(root, name=kind, **options))
    assert losses(root / "runs" / kind) == pytest.approx(losses(root / "runs/BFloat16"), rel=0.02)
    ours, plain = (
        load_file(root / "runs" / name / "artifacts/lora.safetensors") for name in (kind, "BFloat16")
    )
    assert ours.keys() == plain.keys()
    assert any(not torch.equal(ours[name], plain[name]) for name in ours)

    resumed = root / "runs" / f"{kind}-resumed"
    shutil.copytree(root / "runs" / kind, resumed)
    shutil.rmtree(resumed / "artifacts")
    for step in (4, 6):
        shutil.rmtree(resumed / f"checkpoints/step-{step:06d}")
    assert train.execute(run_file(root, name=resumed.name, **options)).details["resumedFromStep"] == 2
    again = load_file(resumed / "artifacts/lora.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())


def test_blocks_that_wait_in_host_memory_leave_the_same_adapter(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train.execute(run_file(root, name="swapped", lora={"rank": 4, "alpha": 8, "blocksToSwap": 2}))
    assert "2 blocks wait in host memory" in caplog.text
    ours, plain = (
        load_file(root / "runs" / name / "artifacts/lora.safetensors") for name in ("swapped", "BFloat16")
    )
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in plain.items())
    assert losses(root / "runs/swapped") == losses(root / "runs/BFloat16")


def test_a_pod_without_the_memory_for_them_is_told_how_much_it_needs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "available", lambda: 1 << 20)
    with pytest.raises(OutOfMemoryError, match=r"blocksToSwap 2 needs 0\.0 GiB of the pod's memory") as told:
        train.execute(run_file(root, name="small", lora={"blocksToSwap": 2}))
    assert told.value.action == "swap fewer blocks, or raise spec.workers.resources.memory"
