"""For how long this process has watched each run, under a clock that did not jump."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

JUMP_SECONDS = 5.0
"""The wall clock and the steady one may drift apart by so much between two looks; more is a jump."""


class Vigil:
    """Two clocks held against each other.

    What another operator wrote down before it died, or this one before its clock was set, was timed by a clock that
    nobody vouches for. So nothing ends for having lasted long unless this process has itself seen it last.
    """

    def __init__(self, wall: Callable[[], datetime], steady: Callable[[], float]) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = self._apart()
        self._since: dict[tuple[str, str], float] = {}

    def seconds(self, run: tuple[str, str]) -> float:
        """Since the first look at the run, or since the clock jumped; asked in each pass."""
        offset = self._apart()
        if abs(offset - self._offset) > JUMP_SECONDS:
            self._since.clear()
        self._offset = offset
        now = self._steady()
        return now - self._since.setdefault(run, now)

    def forget(self, run: tuple[str, str]) -> None:
        """The run is gone."""
        self._since.pop(run, None)

    def _apart(self) -> float:
        return self._wall().timestamp() - self._steady()
