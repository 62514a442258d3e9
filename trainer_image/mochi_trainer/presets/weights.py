"""Strict reading and writing of safetensors files: every problem names the tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mochi_trainer.errors import InvalidInputError, MissingObjectError

FLOAT32_ALWAYS = frozenset({"pos_frequencies"})
"""Parameters that keep float32 whatever the type of the rest: angles lose their meaning in 8 bits of mantissa."""


class WeightsError(InvalidInputError):
    """A file of weights does not fit the model; the message names the file and the tensor."""


def load_weights(module: nn.Module, path: Path, *, device: torch.device | str, dtype: torch.dtype) -> None:
    """Replace the parameters of `module` (which may be on the meta device) by those of the file, strictly by name.

    One tensor at a time is converted, so the host holds little more than the parameters themselves.
    Raises `WeightsError` for a missing, extra, wrongly shaped or unreadable tensor, `MissingObjectError` for no file.
    """
    if not path.is_file():
        raise MissingObjectError(f"{path} does not exist")
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, tensor in _tensors(path, {name: tuple(shape) for name, shape in expected.items()}):
        kind = torch.float32 if name in FLOAT32_ALWAYS and dtype.itemsize < torch.float32.itemsize else dtype
        state[name] = tensor.to(device=device, dtype=kind)
    module.load_state_dict(state, strict=True, assign=True)


def _tensors(path: Path, expected: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _compare(path, expected, found)
            for name in expected:
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise WeightsError(f"{path.name} is not a whole safetensors file: {error}") from error


def _compare(
    path: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of the model" for name in found if name not in expected]
    problems += [
        f"{name} has shape {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WeightsError(f"{path.name} does not fit: {', '.join(problems[:5])}{more}")


def save_weights(module: nn.Module, path: Path, *, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Write the parameters under their names; those that need it stay in float32."""
    state = {
        name: tensor.detach().to("cpu", torch.float32 if name in FLOAT32_ALWAYS else dtype).contiguous()
        for name, tensor in module.state_dict().items()
    }
    save_file(state, path, metadata=dict(metadata))
