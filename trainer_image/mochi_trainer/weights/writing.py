"""Writing safetensors: a whole module, or tensor by tensor, so that the host never holds more than one whole tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mochi_trainer.movement import PROCESS
from mochi_trainer.weights.stored import TYPES

_NAMES = {dtype: name for name, dtype in TYPES.items()}
_ALIGNMENT = 8

FLOAT32_ALWAYS = frozenset({"pos_frequencies"})
"""Parameters that keep float32 whatever the type of the rest: angles lose their meaning in 8 bits of mantissa."""


def kept_type(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type in which a parameter is kept when the others are kept in `dtype`."""
    exempt = name in FLOAT32_ALWAYS and dtype.itemsize < torch.float32.itemsize
    return torch.float32 if exempt else dtype


def save_weights(module: nn.Module, path: Path, *, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Write the parameters under their names; those that need it stay in float32."""
    state = {
        name: tensor.detach().to("cpu", torch.float32 if name in FLOAT32_ALWAYS else dtype).contiguous()
        for name, tensor in module.state_dict().items()
    }
    save_file(state, path, metadata=dict(metadata))


class Planned(NamedTuple):
    """One tensor of the file."""

    shape: Sequence[int]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(
    path: Path, plan: Mapping[str, Planned], tensors: Iterator[Tensor], metadata: Mapping[str, str]
) -> None:
    """Write `tensors`, which come in the order of `plan` and are brought to its types one after the other."""
    with path.open("wb") as file:
        header = _header(plan, metadata)
        file.write(len(header).to_bytes(8, "little") + header)
        for planned, tensor in zip(plan.values(), tensors, strict=True):
            found = tensor.to("cpu", planned.dtype).contiguous()
            if list(found.shape) != list(planned.shape):
                raise ValueError(f"a tensor must have shape {list(planned.shape)}, got {list(found.shape)}")
            found.flatten().view(torch.uint8).numpy().tofile(file)
            PROCESS.moved(planned.size)


def _header(plan: Mapping[str, Planned], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, planned in plan.items():
        end = offset + planned.size
        entries[name] = {
            "dtype": _NAMES[planned.dtype],
            "shape": list(planned.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries).encode()
    return header + b" " * (-len(header) % _ALIGNMENT)
