"""One file of weights wherever it lies: its name for messages, its size, and any range of its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mochi_trainer.errors import MissingObjectError, StorageError
from mochi_trainer.storage import Digest, Store
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.weights.writing import WeightsError

ATTEMPTS = 2
"""Reads of one range, each with the store's own retries, before a connection that breaks off ends the loading."""


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
