"""A directory as a store: mounted volumes, work by hand, and tests."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mochi_trainer.errors import (
    AccessDeniedError,
    DiskFullError,
    InvalidInputError,
    MissingObjectError,
    StorageError,
    TrainerError,
    disk_full,
)
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage.file_names import key_of, path_of
from mochi_trainer.storage.store import Digest, ObjectInfo, Pieces, Unlisted
from mochi_trainer.storage.walking import PARTIAL, Walk

COPY_BYTES = 1 << 18
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
"""What file systems without hard links say: exFAT, many network and FUSE ones."""

_HUB_BLOB = re.compile(r"(?:.*/)?blobs/([0-9a-f]{64})")
"""Where a file of a Hugging Face hub cache links to: large files lie under their sha256."""


class LocalStore:
    r"""Keys are paths below `root`, which is made when something is written.

    Bytes of a name that are no UTF-8 are written out in its key (`caf\xe9.mp4`). Links are followed inside the volume
    of `root`; what `list` leaves out is logged, once, and told by `unlisted`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._walk = Walk(root)

    def address(self, key: str = "") -> str:
        return f"file://{key_of(str(self._root.absolute()))}" + (f"/{key}" if key else "")

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

    def put_pieces(self, pieces: Pieces, size: int, key: str) -> None:  # noqa: ARG002  # as the protocol has it
        with self._writing(key) as partial, partial.open("wb") as written:
            for piece in pieces():
                written.write(piece)
                PROCESS.moved(len(piece))

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
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _created(target, data)
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = path_of(self._root, prefix.rpartition("/")[0])
        with self._errors(prefix):
            found = [file for file in self._walk.files(folder) if file[0].startswith(prefix)]
        for key, stat in sorted(found, key=lambda file: file[0].encode()):
            yield _info(key, stat)

    def unlisted(self) -> Sequence[Unlisted]:
        return [Unlisted(key, what) for key, what in sorted(self._walk.unlisted.items())]

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with self._errors(key):
            try:
                stat = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _info(key, stat) if path.is_file() else None

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

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not key or ".." in parts or "" in parts or "\0" in key:
            raise InvalidInputError(f"not a key below {self.address()}: {key!r}")
        return path_of(self._root, key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        with self._errors(key):
            if not path.is_file():
                raise MissingObjectError(f"{self.address(key)} does not exist")
            try:
                yield path
            except FileNotFoundError as error:  # deleted since
                if path.exists():
                    raise
                raise MissingObjectError(f"{self.address(key)} does not exist") from error

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
            raise AccessDeniedError(
                f"no permission for {self.address(key)}: {error.strerror}",
                action=f"let the user {os.getuid()}, as whom this process runs, read (and where results go, write) it",
            ) from error
        except OSError as error:
            raise self._explained(error, key) from error

    def _explained(self, error: OSError, key: str) -> TrainerError:
        if disk_full(error):
            return DiskFullError(
                f"no space left for {self.address(key)}",
                action=f"make room on the volume of {self.address()}",
            )
        if error.errno == errno.EROFS:
            return AccessDeniedError(
                f"{self.address(key)} lies on a file system that is mounted for reading only",
                action=f"mount the volume of {self.address()} for writing, or write the results elsewhere",
            )
        return StorageError(
            f"{self.address(key)}: {error}",
            action=f"look at the volume of {self.address()}, and at the node's log",
        )


def _created(target: Path, data: bytes) -> bool:
    """Write a file where there is none, on a file system without links: for a moment it is there and not whole."""
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True


def _copy(source: Path, target: Path) -> None:
    """In pieces, so that a slow volume is seen to move, through one buffer, since several files are copied at once."""
    buffer = memoryview(bytearray(COPY_BYTES))
    with source.open("rb") as read, target.open("wb") as written:
        while count := read.readinto(buffer):
            written.write(buffer[:count])
            PROCESS.moved(count)


def _info(key: str, stat: os.stat_result) -> ObjectInfo:
    etag = hashlib.sha256(f"{stat.st_size}/{stat.st_mtime_ns}".encode()).hexdigest()[:32]
    return ObjectInfo(key, stat.st_size, etag, stat.st_mtime)


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
