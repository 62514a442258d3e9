"""The streamed safetensors file is read by the library that everybody uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mochi_trainer.weights.writing import Planned, write


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7),
        "c": torch.randn(2, 2).t(),
        "d": torch.tensor(1.5),
    }
    plan = {name: Planned(tensor.shape, torch.float32) for name, tensor in tensors.items()}
    plan["b"] = Planned((7,), torch.bfloat16)
    path = tmp_path / "x.safetensors"
    write(path, plan, iter(tensors.values()), {"base": "nano"})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert found["b"].dtype == torch.bfloat16
    assert all(torch.equal(found[name], tensor.to(found[name].dtype)) for name, tensor in tensors.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"base": "nano"}


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have shape \[2\], got \[3\]"):
        write(tmp_path / "x", {"a": Planned((2,), torch.float32)}, iter([torch.zeros(3)]), {})
