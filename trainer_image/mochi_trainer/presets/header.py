"""The header of a safetensors file: names, types and shapes, without reading a single weight.

The format is documented at https://huggingface.co/docs/safetensors: eight bytes with the length of a JSON header, the
header, then the bytes of all tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mochi_trainer.errors import AccessDeniedError, MissingObjectError
from mochi_trainer.presets.weights import WeightsError

LENGTH_BYTES = 8
LONGEST = 100_000_000
"""Bytes; safetensors itself refuses longer headers."""

_OTHERS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x80": "a pickle",
    b"GGUF": "a GGUF file",
}


class Listed(NamedTuple):
    """One tensor of the file."""

    dtype: str
    """As safetensors writes it: BF16, F32, ..."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says about itself."""

    tensors: Mapping[str, Listed]
    metadata: Mapping[str, str]
    size: int
    """Bytes of the whole file."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name."""
        return {name: listed.shape for name, listed in self.tensors.items()}

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(listed.shape) for listed in self.tensors.values())


def read_header(path: Path) -> Header:
    """The header of the file at `path`.

    Raises MissingObjectError when there is none, AccessDeniedError when it may not be read, and WeightsError when it is
    empty, truncated, too long or no safetensors file.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise MissingObjectError(f"{path} {what}")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            prefix = file.read(LENGTH_BYTES)
            length = _length(path, prefix, size)
            text = file.read(length)
    except PermissionError as error:
        raise AccessDeniedError(f"{path} may not be read") from error
    if not text.startswith(b"{"):
        raise _no_safetensors(path, prefix)
    if LENGTH_BYTES + length > size:
        raise WeightsError(
            f"{path} is truncated in its header: it has {size} bytes, the header alone {length + 8}"
        )
    try:
        header, end = _parsed(json.loads(text), size)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} is no safetensors file: its header cannot be read ({error})") from error
    whole = LENGTH_BYTES + length + end
    if whole != size:
        what = "is truncated" if size < whole else "is too long"
        raise WeightsError(f"{path} {what}: it has {size} bytes, its header says {whole}")
    return header


def _length(path: Path, prefix: bytes, size: int) -> int:
    if not size:
        raise WeightsError(f"{path} is empty")
    length = int.from_bytes(prefix, "little")
    if size < LENGTH_BYTES or length > LONGEST:
        raise _no_safetensors(path, prefix)
    return length


def _no_safetensors(path: Path, prefix: bytes) -> WeightsError:
    kinds = [what for start, what in _OTHERS.items() if prefix.startswith(start)]
    return WeightsError(f"{path} is {kinds[0] if kinds else 'no safetensors file'}")


def _parsed(entries: dict[str, Any], size: int) -> tuple[Header, int]:
    metadata = entries.pop("__metadata__", {})
    tensors = {
        name: Listed(entry["dtype"], tuple(map(int, entry["shape"]))) for name, entry in entries.items()
    }
    end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()}, size), end
