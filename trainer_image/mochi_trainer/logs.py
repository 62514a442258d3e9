"""Log set-up: one line for a person on a terminal, one JSON object a line everywhere else.

A record with the attribute `plain` is a line for a program: as it is, and none of a terminal's.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

QUIET = ("botocore", "boto3", "s3transfer", "urllib3", "PIL", "libav", "transformers", "torch")

LINE_SECONDS = 5.0
"""Least time between two lines about the progress of one thing."""


class JsonLines(logging.Formatter):
    """`{"time", "level", "logger", "message", "rank"?, "traceback"?}` on one line."""

    def __init__(self, rank: int | None = None) -> None:
        super().__init__()
        self._rank = rank

    def format(self, record: logging.LogRecord) -> str:
        if _plain(record):
            return record.getMessage()
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._rank is not None:
            entry["rank"] = self._rank
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _plain(record: logging.LogRecord) -> bool:
    return bool(getattr(record, "plain", False))


def set_up(*, stream: TextIO | None = None, rank: int | None = None, level: int = logging.INFO) -> None:
    """Send all records to `stream` (standard error when None); call once, from `__main__`."""
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    human = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(human if target.isatty() else JsonLines(rank))
    if target.isatty():
        handler.addFilter(lambda record: not _plain(record))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
