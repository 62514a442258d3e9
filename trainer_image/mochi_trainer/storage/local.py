"""A directory as a store: mounted volumes, work by hand, and tests."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mochi_trainer.errors import (
    AccessDeniedError,
    DiskFullError,
    InvalidInputError,
    MissingObjectError,
    StorageError,
    disk_full,
)
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage.store import Digest, ObjectInfo

PARTIAL = ".partial-"
"""Folders of files that are still being written start with this; `list` does not show them."""

COPY_BYTES = 4 * 1024 * 1024

_HUB_BLOB = re.compile(r"(?:.*/)?blobs/([0-9a-f]{64})")
"""Where a file of a Hugging Face hub cache links to: large files lie under their sha256."""


class LocalStore:
    """Keys are paths below `root`, which is made when something is written."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def address(self, key: str = "") -> str:
        return f"file://{self._root.absolute()}" + (f"/{key}" if key else "")

    def read_bytes(self, key: str) -> bytes:
        with self._reading(key) as path:
            data = path.read_bytes()
        PROCESS.moved(len(data))
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._reading(key) as path, path.open("rb") as file:
            file.seek(start)
            data = file.read(length)
        PROCESS.moved(len(data))
        return data

    def get(self, key: str, to: Path) -> None:
        with self._reading(key) as path, _written(to) as partial:
            _copy(path, partial)

    def put(self, source: Path, key: str) -> None:
        with self._writing(key) as partial:
            _copy(source, partial)

    def write_bytes(self, key: str, data: bytes) -> None:
        with self._writing(key) as partial:
            partial.write_bytes(data)
        PROCESS.moved(len(data))

    def write_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with self._errors(key), _partial_beside(target) as partial:
            partial.write_bytes(data)
            try:
                os.link(partial, target)
            except FileExistsError:
                return False
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with self._errors(prefix):
            found = [key for key in self._keys(prefix) if key.startswith(prefix)]
        for key in sorted(found, key=str.encode):
            info = self.head(key)
            if info is not None:
                yield info

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with self._errors(key):
            try:
                stat = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not path.is_file():
            return None
        etag = hashlib.sha256(f"{stat.st_size}/{stat.st_mtime_ns}".encode()).hexdigest()[:32]
        return ObjectInfo(key, stat.st_size, etag, stat.st_mtime)

    def exists(self, key: str) -> bool:
        return self.head(key) is not None

    def digest(self, key: str) -> Digest | None:
        path = self._path(key)
        with self._errors(key):
            # Only the first link: the blob may be a link itself, to a name that is another kind of hash.
            target = path.readlink().as_posix() if path.is_symlink() else ""
        match = _HUB_BLOB.fullmatch(target)
        return Digest("sha256", match[1], "the hub cache") if match else None

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._errors(key):
                self._path(key).unlink(missing_ok=True)

    def _keys(self, prefix: str) -> Iterator[str]:
        folder = self._root / prefix.rpartition("/")[0]
        for parent, folders, names in os.walk(folder, onerror=_raise_unless_absent):
            folders[:] = [name for name in folders if not name.startswith(PARTIAL)]
            for name in names:
                yield (Path(parent) / name).relative_to(self._root).as_posix()

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not key or ".." in parts or "" in parts or "\0" in key:
            raise InvalidInputError(f"not a key below {self.address()}: {key!r}")
        return self._root / key

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        with self._errors(key):
            if not path.is_file():
                raise MissingObjectError(f"{self.address(key)} does not exist")
            yield path

    @contextmanager
    def _writing(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        with self._errors(key), _written(path) as partial:
            yield partial

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise AccessDeniedError(f"no permission for {self.address(key)}: {error.strerror}") from error
        except OSError as error:
            if disk_full(error):
                raise DiskFullError(f"no space left for {self.address(key)}") from error
            raise StorageError(f"{self.address(key)}: {error}") from error


def _copy(source: Path, target: Path) -> None:
    """In pieces, so that a slow volume is seen to move."""
    with source.open("rb") as read, target.open("wb") as written:
        while piece := read.read(COPY_BYTES):
            written.write(piece)
            PROCESS.moved(len(piece))


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _partial_beside(target: Path) -> Iterator[Path]:
    """A path on the same file system as `target`, for content that is not whole yet; removed afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=target.parent) as folder:
        yield Path(folder) / "content"


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A path whose file takes the place of `target` when the block ends well."""
    with _partial_beside(target) as partial:
        yield partial
        partial.replace(target)
