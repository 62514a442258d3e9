"""What the content of a file should hash to, where its source says so: SHA256SUMS beside it, the hub cache, or the store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mochi_trainer.storage import Digest
from mochi_trainer.weights.stored import PIECE_BYTES, StoredFile, WeightsError, found

if TYPE_CHECKING:
    from hashlib import _Hash

SUMS = "SHA256SUMS"
"""As `sha256sum` writes it, in the file's folder or in the model's."""
LONGEST = 10_000_000
"""Bytes of it."""
_LINE = re.compile(r"\\?([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")


def expected_digest(file: StoredFile) -> Digest | None:
    """The digest that the source gives; None when it gives none.

    A line of SHA256SUMS comes before what the hub cache or the store know. Raises WeightsError for a line that is none.
    """
    folder = file.key[: file.key.rfind("/") + 1]
    for prefix in dict.fromkeys((folder, "")):
        sums = found(file.store, f"{prefix}{SUMS}")
        for name, digest in _lines(sums) if sums else ():
            if name == file.key.removeprefix(prefix):
                return digest
    return file.digest


def _lines(sums: StoredFile) -> Iterator[tuple[str, Digest]]:
    text = sums.read(0, min(sums.size, LONGEST)).decode("utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise WeightsError(
                f"line {number} of {sums.name} is not a sha256 and a file's name: {line[:80]!r}"
            )
        yield match[2], Digest("sha256", match[1].lower(), sums.name)


class Check:
    """Hashes one file as it is read, first byte to last."""

    def __init__(self, file: StoredFile, expected: Digest) -> None:
        self._file, self._expected = file, expected
        self._hash: _Hash = hashlib.new(expected.algorithm, usedforsecurity=False)

    def add(self, data: bytes) -> None:
        """The next bytes of the file."""
        self._hash.update(data)

    def finish(self) -> None:
        """Raise WeightsError when the content is not what the source says."""
        is_, should = self._hash.hexdigest(), self._expected.hexadecimal
        if is_ != should:
            raise WeightsError(
                f"{self._file.name} was altered or damaged: its {self._expected.algorithm} is {is_[:16]}..., "
                f"{self._expected.origin} says {should[:16]}...; get the file again"
            )


def check_whole(file: StoredFile, expected: Digest) -> None:
    """Read all of `file` and compare. Raises WeightsError when it differs."""
    check = Check(file, expected)
    for start in range(0, file.size, PIECE_BYTES):
        check.add(file.read(start, min(PIECE_BYTES, file.size - start)))
    check.finish()
