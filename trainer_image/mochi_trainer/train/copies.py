"""Where the state of a step is kept while it is written and training goes on: host memory, or the disk where that is too small.

There is one copy at a time. It is taken before the next step begins, in the training's own thread, so that what is written
is the state of that step and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mochi_trainer.errors import DiskFullError
from mochi_trainer.storage import Entry, Piece, Store, put_entry, put_pieces_entry, require_space
from mochi_trainer.train.shard_bytes import file_pieces, file_size

IN_FLIGHT = 16 * 8 * 1024 * 1024
"""Bytes of the parts that an upload has in memory at once, besides the copy."""
SHARE = 0.8
"""Of the host memory that is free: the rest is for what else the pod does."""


class Copy(Protocol):
    """The state of one step, apart from the training."""

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Make it the copy of `tensors`, by name, in place of the one before. Raises DiskFullError."""
        ...

    def put(self, store: Store, prefix: str, name: str, check: Callable[[], None]) -> Entry:
        """Store it as the safetensors file `prefix/name`; raises what `check`, which is called on the way, and the store raise."""
        ...


class HostCopy:
    """In host memory, which it keeps once it has it."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        for name in self._tensors.keys() - tensors.keys():
            del self._tensors[name]
        for name, tensor in tensors.items():
            own = self._tensors.get(name)
            if own is None or (own.shape, own.dtype) != (tensor.shape, tensor.dtype):
                own = self._tensors[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
            own.copy_(tensor)

    def put(self, store: Store, prefix: str, name: str, check: Callable[[], None]) -> Entry:
        tensors = dict(self._tensors)

        def pieces() -> Iterator[Piece]:
            for piece in file_pieces(tensors):
                check()
                yield piece

        return put_pieces_entry(store, prefix, pieces, file_size(tensors), name)


class DiskCopy:
    """As a file in `folder`; training waits until it is written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.safetensors"

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        self._path.unlink(missing_ok=True)  # an upload that was dropped may still read the one before
        require_space(self._path.parent, file_size(tensors), "the copy of a checkpoint")
        with self._path.open("wb") as file:
            for piece in file_pieces(tensors):
                file.write(piece)

    def put(self, store: Store, prefix: str, name: str, check: Callable[[], None]) -> Entry:
        check()
        return put_entry(store, prefix, self._path, name)


def copy_for(need: int, free: int | None, folder: Path) -> Copy:
    """The copy of `need` bytes: in host memory where `free` bytes of it allow that, else in `folder`.

    `free` None is not known, and taken for enough. Raises DiskFullError when neither has the room.
    """
    if free is None or need + IN_FLIGHT <= free * SHARE:
        return HostCopy()
    try:
        require_space(folder, need, "the copy of a checkpoint, for which host memory is too small,")
    except DiskFullError as error:
        raise DiskFullError(
            str(error),
            action="raise the memory of the training pods (workers.resources), of which the copy may take "
            f"{SHARE:.0%} of what is free, or their disk",
        ) from error
    return DiskCopy(folder)
