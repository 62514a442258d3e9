"""One limit for everything that waits."""

from __future__ import annotations

import time


class DeadlineError(Exception):
    """The time is up; the message says what was waited for."""


class Deadline:
    """A point in time, `seconds` from now, that all waits of a run share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def left(self, what: str, most: float | None = None) -> float:
        """Seconds that may be waited for `what`, at most `most`; raise DeadlineError when there are none."""
        rest = self.seconds - self.elapsed()
        if rest <= 0:
            raise DeadlineError(f"{what}: not done within the limit of {self.seconds:.0f} s (--time-limit)")
        return rest if most is None else min(rest, most)
