"""Lines of the log while weights are loaded: at most one every few seconds, and one at the end."""

from __future__ import annotations

import logging
import time

from mochi_trainer.logs import LINE_SECONDS

log = logging.getLogger(__name__)

MB, GB = 10**6, 10**9


class Progress:
    """How much of one part has been read."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._began = time.monotonic()
        self._next_line = self._began + LINE_SECONDS

    def add(self, size: int) -> None:
        """`size` more bytes have been read."""
        self._done += size
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            log.info(
                "loading %s: %s of %s, %.0f %%, %.0f MB/s",
                self._what,
                _size(self._done),
                _size(self._total),
                100 * self._done / self._total,
                self._rate(now),
            )

    def finish(self, tensors: int, checked: str) -> None:
        """Everything is there."""
        now = time.monotonic()
        log.info(
            "loaded %s: %d tensors, %s read in %.1f s, %.0f MB/s; checksum: %s",
            self._what,
            tensors,
            _size(self._done),
            now - self._began,
            self._rate(now),
            checked,
        )

    def _rate(self, now: float) -> float:
        return self._done / MB / max(now - self._began, 1e-6)


def _size(count: int) -> str:
    return f"{count / GB:.2f} GB" if count >= GB else f"{count / MB:.1f} MB"
