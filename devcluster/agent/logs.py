"""Reads container logs as stored by the shim: `<RFC 3339> <stdout|stderr> <F|P> <text>` a line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

POLL_SECONDS = 0.1
FALLBACK_LINES = 80
FALLBACK_BYTES = 2048
MESSAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What part of a log is wanted; the query of a kubelet's containerLogs."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: datetime | None = None
    limit: int | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str], now: datetime) -> LogOptions:
        """Parse a query; `ValueError` for a number that is none."""
        since = None
        if "sinceSeconds" in query:
            since = now - timedelta(seconds=int(query["sinceSeconds"]))
        elif "sinceTime" in query:
            since = datetime.fromisoformat(query["sinceTime"])
        return cls(
            follow=query.get("follow", "false") == "true",
            timestamps=query.get("timestamps", "false") == "true",
            tail=int(query["tailLines"]) if "tailLines" in query else None,
            since=since,
            limit=int(query["limitBytes"]) if "limitBytes" in query else None,
        )


def shown(record: bytes, options: LogOptions) -> bytes:
    """A stored record as the reader wants it; empty when it is too old."""
    stamp, _, rest = record.partition(b" ")
    _, _, rest = rest.partition(b" ")
    kind, _, text = rest.partition(b" ")
    if options.since is not None and _time(stamp) < options.since:
        return b""
    if kind == b"P":
        text = text.removesuffix(b"\n")
    return stamp + b" " + text if options.timestamps else text


def _time(stamp: bytes) -> datetime:
    try:
        return datetime.fromisoformat(stamp.decode()[:26] + "+00:00")
    except ValueError:
        return datetime.now(UTC)


def read(path: Path, options: LogOptions, running: Callable[[], bool]) -> Iterator[bytes]:
    """Pieces of a log. With `follow`, goes on until `running()` is false and the end is reached."""
    left = options.limit
    for piece in _pieces(path, options, running):
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        if piece:
            yield piece
        if left == 0:
            return


def _pieces(path: Path, options: LogOptions, running: Callable[[], bool]) -> Iterator[bytes]:
    with path.open("rb") as file:
        if options.tail is not None:
            yield from (shown(record, options) for record in deque(file, maxlen=options.tail))
        while True:
            alive = options.follow and running()
            rest = b""
            while line := file.readline():
                rest += line
                if rest.endswith(b"\n"):
                    yield shown(rest, options)
                    rest = b""
            if not alive:
                return
            file.seek(-len(rest), 1)
            time.sleep(POLL_SECONDS)


def termination_message(file: Path, log: Path, policy: str, code: int) -> str:
    """What a container left to say: the end of its termination file, or of its log if asked for and it failed."""
    text = _end(file, MESSAGE_BYTES)
    if text or policy != "FallbackToLogsOnError" or code == 0 or not log.exists():
        return text.decode(errors="replace")
    options = LogOptions(tail=FALLBACK_LINES)
    return b"".join(read(log, options, lambda: False))[-FALLBACK_BYTES:].decode(errors="replace")


def _end(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - size, 0))
            return file.read()
    except OSError:
        return b""
