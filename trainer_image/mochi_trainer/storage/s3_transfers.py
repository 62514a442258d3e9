"""Whole files to and from S3, in parts that are under way at once: one connection is slower than a link (ADR 0013)."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boto3.s3.transfer import ProgressCallbackInvoker, TransferConfig, create_transfer_manager
from botocore.exceptions import ClientError
from s3transfer.futures import TransferFuture
from s3transfer.subscribers import BaseSubscriber

from mochi_trainer.movement import PROCESS
from mochi_trainer.storage.s3_answers import as_asked
from mochi_trainer.storage.s3_faults import CHANGED, CutShortError, code_of
from mochi_trainer.storage.store import Piece, Pieces

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 8 * 1024 * 1024
AT_ONCE = 16
PIECE_BYTES = 64 * 1024
"""Read at once from an answer: small, so that a slow server is seen to move."""

Called = Callable[[Callable[["S3Client"], None]], None]
"""Does something with the client, again where that may help."""


class ChangedError(Exception):
    """The object is another one than when its first part was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One object of `size` bytes on its way into a file."""

    bucket: str
    key: str
    size: int
    etag: str
    """Without quotes."""
    called: Called
    stopped: threading.Event = field(default_factory=threading.Event)

    def into(self, path: Path) -> None:
        """Raises ChangedError, what `called` raises, and what a listener of movement raises."""
        with path.open("wb") as file, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            starts = range(0, self.size, PART_BYTES)
            parts = [pool.submit(self._part, file.fileno(), start) for start in starts]
            try:
                ended, _ = wait(parts, return_when=FIRST_EXCEPTION)
                for part in ended:
                    part.result()
            finally:
                self.stopped.set()
                pool.shutdown(cancel_futures=True)

    def _part(self, file: int, start: int) -> None:
        self.called(lambda s3: self._read(s3, file, start, min(start + PART_BYTES, self.size)))

    def _read(self, s3: S3Client, file: int, start: int, end: int) -> None:
        """Write the bytes from `start` up to `end` to their place."""
        try:
            answer = s3.get_object(
                Bucket=self.bucket, Key=self.key, Range=f"bytes={start}-{end - 1}", IfMatch=f'"{self.etag}"'
            )
        except ClientError as error:
            if code_of(error) in CHANGED:
                raise ChangedError from error
            raise
        whole = answer["ResponseMetadata"]["HTTPStatusCode"] == 200  # a server that knows no ranges
        with closing(answer["Body"]) as body:
            as_asked("" if whole else answer.get("ContentRange", ""), start)
            at = 0 if whole else start
            while at < end and not self.stopped.is_set() and (piece := body.read(PIECE_BYTES)):
                if self.stopped.is_set():  # the file may be closed
                    return
                wanted = piece[max(0, start - at) : end - at]
                _write(file, wanted, max(at, start))
                at += len(piece)
                PROCESS.moved(len(piece))
            if at < end and not self.stopped.is_set():
                raise CutShortError(f"{at - start} bytes came of {end - start}")


def upload(s3: S3Client, source: Path, bucket: str, key: str) -> None:
    """Store a file, in parts when it is large; when that fails what has been stored of it is removed."""
    with source.open("rb") as file:
        _transferred(s3, file, bucket, key)


def upload_pieces(s3: S3Client, pieces: Pieces, size: int, bucket: str, key: str) -> None:
    """As `upload`, of `size` bytes; no more than AT_ONCE parts are in memory besides the pieces themselves."""
    _transferred(s3, _Reader(pieces()), bucket, key, _Size(size))


def _transferred(s3: S3Client, source: Any, bucket: str, key: str, *known: BaseSubscriber) -> None:
    config = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=AT_ONCE
    )
    config.max_in_memory_upload_chunks = AT_ONCE
    told: list[Any] = [ProgressCallbackInvoker(PROCESS.of_thread().moved), *known]
    with create_transfer_manager(s3, config) as manager:
        manager.upload(source, bucket, key, subscribers=told).result()


class _Size(BaseSubscriber):
    """Tells how much will be sent: so large objects get fewer and larger parts."""

    def __init__(self, size: int) -> None:
        self._size = size

    def on_queued(self, future: TransferFuture, **_: object) -> None:
        future.meta.provide_transfer_size(self._size)


class _Reader:
    """Pieces as a file that can be read once, from its start."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer at the end; all that are left when it is negative."""
        found: list[memoryview] = []
        wanted = sys.maxsize if size < 0 else size
        while wanted:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
                continue
            found.append(self._rest[:wanted])
            self._rest = self._rest[wanted:]
            wanted -= len(found[-1])
        return b"".join(found)


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
