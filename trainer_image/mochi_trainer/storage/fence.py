"""Fencing: of several attempts of one training only the newest writes into the run's folder.

An attempt claims the folder when it starts. Before each write it looks for the claim of a newer one; where there is one it
stops, and leaves the folder alone. Between look and write a moment is left, in which an older attempt may still finish one
object: checkpoints therefore have the attempt in their name, and everything else is written again by the newer one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mochi_api import layout
from mochi_trainer.errors import SupersededError
from mochi_trainer.storage.store import Digest, ObjectInfo, Pieces, Store, Unlisted

_CLAIM = re.compile(r"attempts/a(\d{6,})\.json")


class Fence:
    """What one attempt of a training knows of newer ones. `store` is rooted at the run's folder."""

    def __init__(self, store: Store, attempt: int) -> None:
        self._store, self._attempt = store, attempt

    def claim(self) -> None:
        """Say that this attempt has begun. Raises as `check`, and what the store raises."""
        document = json.dumps({"attempt": self._attempt}).encode()
        self._store.write_bytes(layout.claim("", self._attempt), document)
        self.check()

    def check(self) -> None:
        """Raise SupersededError when a newer attempt has begun, and what the store raises."""
        newest = newest_claim(info.key for info in self._store.list("attempts/"))
        if newest > self._attempt:
            raise SupersededError(
                f"attempt {newest} of this training has begun in {self._store.address()}, so attempt {self._attempt} "
                f"writes no more there; to go on by hand, set run.attempt to {newest + 1}"
            )


def newest_claim(keys: Iterable[str]) -> int:
    """The highest attempt that has a claim among the keys of a run's folder; 0 when none has."""
    return max((int(match[1]) for key in keys if (match := _CLAIM.fullmatch(key))), default=0)


class FencedStore:
    """A store whose every change is preceded by a look at the fence; reading is free."""

    def __init__(self, store: Store, fence: Fence) -> None:
        self._store, self._fence = store, fence

    def address(self, key: str = "") -> str:
        return self._store.address(key)

    def read_bytes(self, key: str) -> bytes:
        return self._store.read_bytes(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._store.read_range(key, start, length)

    def get(self, key: str, to: Path) -> None:
        self._store.get(key, to)

    def put(self, source: Path, key: str) -> None:
        self._fence.check()
        self._store.put(source, key)

    def put_pieces(self, pieces: Pieces, size: int, key: str) -> None:
        self._fence.check()
        self._store.put_pieces(pieces, size, key)

    def write_bytes(self, key: str, data: bytes) -> None:
        self._fence.check()
        self._store.write_bytes(key, data)

    def write_if_absent(self, key: str, data: bytes) -> bool:
        self._fence.check()
        return self._store.write_if_absent(key, data)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def unlisted(self) -> Sequence[Unlisted]:
        return self._store.unlisted()

    def head(self, key: str) -> ObjectInfo | None:
        return self._store.head(key)

    def exists(self, key: str) -> bool:
        return self._store.exists(key)

    def digest(self, key: str) -> Digest | None:
        return self._store.digest(key)

    def delete(self, keys: Iterable[str]) -> None:
        self._fence.check()
        self._store.delete(keys)
