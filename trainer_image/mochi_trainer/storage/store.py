"""The edge to storage: what every store can do. Keys are relative to the store's root and use `/`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

Piece = bytes | memoryview
"""Bytes in memory; a view has items of one byte."""

Pieces = Callable[[], Iterator[Piece]]
"""Gives a content from its start, piece by piece."""


class ObjectInfo(NamedTuple):
    """One stored object."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Changes when the content changes."""

    modified: float = 0.0
    """When it was written, in seconds of Unix time by the store's clock; 0 when the store does not say."""

    @property
    def identity(self) -> tuple[str, int, str]:
        """What a cache key says of it: key, size and ETag."""
        return self.key, self.size, self.etag


class Digest(NamedTuple):
    """What a content hashes to."""

    algorithm: Literal["sha256", "md5"]
    hexadecimal: str
    origin: str
    """Who says so, for messages."""


class Unlisted(NamedTuple):
    """A file or a folder that is there and that no listing gives."""

    key: str
    what: str
    """In words that follow a number: `without permission to be read`."""


class Store(Protocol):
    """Objects below one root address.

    Every method may raise `StorageError` (no answer, 5xx) and `AccessDeniedError` (credentials, permissions);
    a bucket that does not exist is a `MissingObjectError`.
    """

    def address(self, key: str = "") -> str:
        """The full address of `key`, for messages and links: `s3://bucket/prefix/key` or `file:///folder/key`."""
        ...

    def read_bytes(self, key: str) -> bytes:
        """The whole content; raise `MissingObjectError` when the key does not exist."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end; raise `MissingObjectError` when the key does not exist."""
        ...

    def get(self, key: str, to: Path) -> None:
        """Download, making parent folders; raise `MissingObjectError`, or `DiskFullError`; `to` is whole or absent."""
        ...

    def put(self, source: Path, key: str) -> None:
        """Upload atomically: readers see the old object or the new one."""
        ...

    def put_pieces(self, pieces: Pieces, size: int, key: str) -> None:
        """As `put`, of `size` bytes that are in memory or made on the way, without a copy of all of them.

        `pieces` is called again when the store is asked again. What it raises is raised, and nothing is stored then.
        """
        ...

    def write_bytes(self, key: str, data: bytes) -> None:
        """As `put`, from memory."""
        ...

    def write_if_absent(self, key: str, data: bytes) -> bool:
        """Write unless the key exists; return whether this call wrote it. Of several writers at once one wins."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, by key in the order of their UTF-8 bytes; none is no error."""
        ...

    def unlisted(self) -> Sequence[Unlisted]:
        """What the listings so far have found and could not give, by key; what nobody has put there is not among it."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Size and ETag, or None when the key does not exist."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the key exists."""
        ...

    def digest(self, key: str) -> Digest | None:
        """The digest of the content that came with it, or None when none did or the key does not exist; reads no content."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; a key that does not exist is no error."""
        ...
