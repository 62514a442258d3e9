"""Writes a safetensors file tensor by tensor, so that the host never holds more than one whole tensor.

The format is documented at https://huggingface.co/docs/safetensors: eight bytes with the length of a JSON header,
the header, then the bytes of all tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mochi_trainer.movement import PROCESS

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The types that weights can have, by their names in the header."""
_NAMES = {dtype: name for name, dtype in TYPES.items()}
_ALIGNMENT = 8


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
