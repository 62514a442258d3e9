"""The base weights of a LoRA run are never written: their hash is the same after training, validation and sampling."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from mochi_trainer.jobs import sample, train
from mochi_trainer.lora import base_state
from mochi_trainer.model import DiT
from mochi_trainer.weights import load_dit
from tests.trainer.distributed import free_port
from tests.trainer.training_runs import run_file, write_dataset


def digest(model: nn.Module) -> str:
    """sha256 over names and bytes of the published parameters."""
    whole = hashlib.sha256()
    for name, tensor in sorted(base_state(model).items()):
        whole.update(name.encode())
        whole.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


@contextmanager
def called_transformers() -> Iterator[list[DiT]]:
    """Every transformer that is called meanwhile."""
    seen: list[DiT] = []

    def note(module: nn.Module, _: Any) -> None:
        if isinstance(module, DiT) and module not in seen:
            seen.append(module)

    hook = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    write_dataset(folder)
    return folder


def test_training_validation_and_sampling_leave_every_byte_of_the_base(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOCHI_POD_IP", "127.0.0.1")
    monkeypatch.setitem(os.environ, "MOCHI_METRICS_PORT", str(free_port()))
    published = digest(load_dit("nano"))
    every = ["query", "key", "value", "output", "mlp_in", "mlp_out", "text_value", "text_mlp_out"]
    lora = {"rank": 4, "alpha": 8, "dropout": "0.1", "rsLora": True, "targets": every, "exportMerged": True}
    run = run_file(root, prompts=["a red circle"], lora=lora)
    with called_transformers() as seen:
        train.execute(run)
        trained = list(seen)
        sample.execute(run)
    assert [len(trained), len(seen)] == [1, 2]
    assert [digest(model) for model in seen] == [published, published]
