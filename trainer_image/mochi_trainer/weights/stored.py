"""One file of weights wherever it lies: any range of its bytes, and its header without reading a single weight.

The format, safetensors, is documented at https://huggingface.co/docs/safetensors: eight bytes with the length of a JSON
header, the header, then the bytes of all tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mochi_trainer.documents import json_of
from mochi_trainer.errors import InvalidInputError, MissingObjectError, StorageError
from mochi_trainer.lora.pickles import BEGINNINGS, conversion
from mochi_trainer.storage import Digest, Store
from mochi_trainer.storage.local import LocalStore

ATTEMPTS = 2
"""Reads of one range, each with the store's own retries, before a connection that breaks off ends the loading."""

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that weights may have in a file, by their names in its header."""

PIECE_BYTES = 4 * 1024 * 1024
"""Most bytes of one read: large enough for S3, small enough that several fit into any pod."""

LENGTH_BYTES = 8
LONGEST = 100_000_000
"""Bytes; safetensors itself refuses longer headers."""

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of one number of each type whose size is checked."""

_OTHERS = {**BEGINNINGS, b"GGUF": "a GGUF file"}


class WeightsError(InvalidInputError):
    """A file of weights does not fit the model; the message names the file and the tensor."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a store, as it was when it was found."""

    store: Store
    key: str
    size: int
    """Bytes."""
    etag: str

    @property
    def name(self) -> str:
        """The full address."""
        return self.store.address(self.key)

    @property
    def digest(self) -> Digest | None:
        """What the store says about the content."""
        return self.store.digest(self.key)

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`.

        Raises WeightsError when the file ends before, and what the store raises.
        """
        data = self._read(start, length)
        if len(data) != length:
            raise WeightsError(
                f"{self.name} is truncated: it ends at byte {start + len(data)}, byte {start + length} is asked for"
            )
        return data

    def _read(self, start: int, length: int) -> bytes:
        for _ in range(ATTEMPTS - 1):
            try:
                return self.store.read_range(self.key, start, length)
            except StorageError:
                continue
        return self.store.read_range(self.key, start, length)

    def check_unchanged(self) -> None:
        """Raise WeightsError when the store has another file under the key by now, or none."""
        now = self.store.head(self.key)
        if now is None or (now.size, now.etag) != (self.size, self.etag):
            raise WeightsError(f"{self.name} changed while it was read")


def found(store: Store, key: str) -> StoredFile | None:
    """The file of this key, or None."""
    info = store.head(key)
    return None if info is None else StoredFile(store, info.key, info.size, info.etag)


def required(store: Store, key: str) -> StoredFile:
    """As `found`; raises MissingObjectError when there is none."""
    file = found(store, key)
    if file is None:
        raise MissingObjectError(f"{store.address(key)} does not exist")
    return file


def local(path: Path) -> StoredFile:
    """The file at `path`. Raises MissingObjectError when there is none, AccessDeniedError when it may not be read."""
    if path.is_dir():
        raise MissingObjectError(f"{path} is a folder, not a file")
    return required(LocalStore(path.parent), path.name)


class Listed(NamedTuple):
    """One tensor of the file."""

    dtype: str
    """As safetensors writes it: BF16, F32, ..."""
    shape: tuple[int, ...]
    start: int = 0
    """The file's byte at which its numbers start."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says about itself."""

    tensors: Mapping[str, Listed]
    metadata: Mapping[str, str]
    size: int
    """Bytes of the whole file."""
    start: int = 0
    """The file's byte after the header, at which the first tensor starts."""

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
    return header_of(local(path))


def header_of(file: StoredFile) -> Header:
    """The header of a file in any store. Raises as `read_header`, and what the store raises."""
    if not file.size:
        raise WeightsError(f"{file.name} is empty")
    prefix = file.read(0, min(LENGTH_BYTES, file.size))
    length = int.from_bytes(prefix, "little")
    if file.size < LENGTH_BYTES or length > LONGEST:
        raise _no_safetensors(file, prefix)
    text = file.read(LENGTH_BYTES, min(length, file.size - LENGTH_BYTES))
    if not text.startswith(b"{"):
        raise _no_safetensors(file, prefix)
    start = LENGTH_BYTES + length
    if start > file.size:
        raise WeightsError(
            f"{file.name} is truncated in its header: it has {file.size} bytes, the header alone {start}"
        )
    try:
        header, end = _parsed(json_of(text), file.size, start)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise WeightsError(
            f"{file.name} is no safetensors file: its header cannot be read ({error})"
        ) from error
    if end != file.size:
        what = "is truncated" if file.size < end else "is too long"
        raise WeightsError(f"{file.name} {what}: it has {file.size} bytes, its header says {end}")
    return header


def _no_safetensors(file: StoredFile, prefix: bytes) -> WeightsError:
    start = next((start for start in _OTHERS if prefix.startswith(start)), b"")
    more = f": {conversion(file.key)}" if start in BEGINNINGS else ""
    return WeightsError(f"{file.name} is {_OTHERS.get(start, 'no safetensors file')}{more}")


def _parsed(entries: dict[str, Any], size: int, start: int) -> tuple[Header, int]:
    """The header, and the byte at which the last tensor ends."""
    metadata = entries.pop("__metadata__", {})
    if wrong := next((key for key, value in metadata.items() if not isinstance(value, str)), None):
        raise ValueError(f"the metadata key {wrong} must have a text")
    tensors, places = {}, []
    for name, entry in entries.items():
        first, last = entry["data_offsets"]
        listed = Listed(entry["dtype"], tuple(entry["shape"]), start + _count(first))
        _check_place(name, listed, start, start + _count(last))
        tensors[name] = listed
        places.append((listed.start, start + last, name))
    return Header(tensors, metadata, size, start), _end(places, start)


def _end(places: list[tuple[int, int, str]], start: int) -> int:
    """The byte at which the last tensor ends. Raises ValueError unless each begins where the one before ends."""
    for first, last, name in sorted(places):
        if first != start:
            what = "overlaps with" if first < start else "leaves a gap after"
            raise ValueError(f"{name} {what} the tensor before it")
        start = last
    return start


def _count(value: Any) -> int:
    """Of a file that lies it may be another type, or even infinite."""
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is no number of bytes")
    return value


def _check_place(name: str, listed: Listed, start: int, last: int) -> None:
    item = ITEM_BYTES.get(listed.dtype)
    given = last - listed.start
    if (
        listed.start < start
        or given < 0
        or any(type(length) is not int or length < 0 for length in listed.shape)
    ):
        raise ValueError(f"{name} has no possible place or shape")
    if item is not None and given != item * math.prod(listed.shape):
        raise ValueError(
            f"{name} has {given} bytes, {list(listed.shape)} in {listed.dtype} is {item * math.prod(listed.shape)}"
        )
