"""Answers that come so slowly that they are none: a byte a second breaks no limit on silence, and would never end.

Held where bytes leave the socket, so that it holds for status lines, headers, listings, errors and contents alike; and
where they enter it, so that an upload ends in a time that follows from its size.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LEAST_BYTES = 64 * 1024
"""That come of an answer in the time that is given, unless it ends before."""
SENT_BYTES = 512 * 1024
"""That are taken of what is sent in the time that is given: so an upload may take that time for each of them, and no more."""
PIECE_BYTES = 16 * 1024
"""That are sent at once; each may take as long as a server may be silent."""
BLANK_SECONDS = 600.0
"""So long an answer may consist of blanks, with which S3 holds a connection while it puts the parts of an upload together."""

Clock = Callable[[], float]


class SlowAnswerError(OSError):
    """Hardly anything comes of an answer, or is taken of what is sent, or an answer ends within its first lines."""


class Pace:
    """How fast an answer comes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._bytes, self._waited, self._blank = 0, 0.0, 0.0

    def came(self, piece: memoryview, waited: float) -> None:
        """Raise SlowAnswerError when too few bytes have come in the time in which they were waited for."""
        self._bytes += len(piece)
        self._waited += waited
        if self._bytes >= LEAST_BYTES:
            self._bytes, self._waited = 0, 0.0
        elif self._waited > self._seconds and not self._holds(piece):
            raise SlowAnswerError(f"only {self._bytes} bytes of an answer came in {self._waited:.0f} s")

    def _holds(self, piece: memoryview) -> bool:
        """Whether these are blanks that hold the connection for now."""
        if self._blank >= BLANK_SECONDS or not bytes(piece).isspace():
            return False
        self._blank += self._waited
        self._bytes, self._waited = 0, 0.0
        return True


class SentPace:
    """How fast what is sent is taken."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._bytes, self._waited = 0, 0.0

    def went(self, count: int, waited: float) -> None:
        """Raise SlowAnswerError when too few bytes were taken in the time that it took."""
        self._bytes += count
        self._waited += waited
        if self._bytes >= SENT_BYTES:
            self._bytes, self._waited = 0, 0.0
        elif self._waited > self._seconds:
            raise SlowAnswerError(
                f"only {self._bytes} bytes were taken of what is sent in {self._waited:.0f} s"
            )


class _PacedReader(io.RawIOBase):
    """What comes from a socket; `first_lines`: and is over once it ends, which botocore would read on from for ever."""

    def __init__(self, raw: Any, pace: Pace, clock: Clock, *, first_lines: bool) -> None:
        self._raw, self._pace, self._clock, self._first_lines = raw, pace, clock, first_lines
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        begun = self._clock()
        count: int | None = self._raw.readinto(buffer)
        if count:
            self._pace.came(memoryview(buffer)[:count], self._clock() - begun)
        elif self._over and self._first_lines:
            raise SlowAnswerError("the connection was closed within the first lines of the answer")
        self._over = not count
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedSocket:
    """A socket whose readers keep a pace, each of its own; all else is the socket's."""

    def __init__(self, socket: Any, seconds: float, clock: Clock) -> None:
        self._socket, self._seconds, self._clock = socket, seconds, clock
        self._sent = SentPace(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: Any, *flags: Any) -> None:
        """Send in pieces, or one time limit would hold for them all, whatever their size."""
        with memoryview(data).cast("B") as whole:
            for start in range(0, len(whole), PIECE_BYTES):
                piece, begun = whole[start : start + PIECE_BYTES], self._clock()
                self._socket.sendall(piece, *flags)
                self._sent.went(len(piece), self._clock() - begun)

    def makefile(self, mode: str, buffering: int = -1) -> io.RawIOBase | io.BufferedReader:
        """A reader of one answer; the one without a buffer is that of `Expect: 100-continue`."""
        self._sent = SentPace(self._seconds)
        raw, pace = self._socket.makefile(mode, 0), Pace(self._seconds)
        reader = _PacedReader(raw, pace, self._clock, first_lines=buffering == 0)
        return reader if buffering == 0 else io.BufferedReader(reader)


def paced(client: S3Client, seconds: float, clock: Clock = time.monotonic) -> None:
    """From now on every answer to `client` brings LEAST_BYTES in so many seconds, or its end, or fails, and SENT_BYTES of
    what it sends are taken in as many."""

    def kept(connection: type[Any]) -> type[Any]:
        class Kept(connection):  # type: ignore[misc]  # botocore has no types
            sock: Any

            def connect(self) -> None:
                super().connect()
                self.sock = _PacedSocket(self.sock, seconds, clock)

        return Kept

    def pool(base: type[Any], connection: type[Any]) -> type[Any]:
        return type(base.__name__, (base,), {"ConnectionCls": kept(connection)})

    session: Any = client._endpoint.http_session  # type: ignore[attr-defined]  # no other door leads to its connections
    session._pool_classes_by_scheme.update(
        http=pool(AWSHTTPConnectionPool, AWSHTTPConnection),
        https=pool(AWSHTTPSConnectionPool, AWSHTTPSConnection),
    )
