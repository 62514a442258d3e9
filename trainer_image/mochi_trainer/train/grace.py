"""Whether the grace period of a pod is long enough for what a training does when it is stopped."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

BYTES_PER_SECOND = 100e6
"""What is taken for the speed of a rank's upload before one is measured: a link of one gigabit."""
ROUNDED_TO = 10
LONGEST = 3600
"""Seconds that `runPolicy.gracePeriodSeconds` may be at most."""


def seconds_needed(*, step: float, save: float) -> int:
    """From SIGTERM to the end: the step at hand, the checkpoint that is under way, and the one of that step."""
    return math.ceil((step + 2 * save) / ROUNDED_TO) * ROUNDED_TO


@dataclass(kw_only=True, slots=True)
class Grace:
    """The grace period of this run, compared with what is expected, and then with what was measured."""

    seconds: int
    """Between SIGTERM and the kill."""
    needed: int = field(default=0, init=False)
    """By the last estimate."""
    _warned: int = field(default=0, init=False)

    def expect(self, size: int) -> None:
        """Before the first checkpoint, of which this rank writes `size` bytes."""
        self._compare(seconds_needed(step=0, save=size / BYTES_PER_SECOND), "is expected to need")

    def measured(self, *, step: float, save: float) -> None:
        """A checkpoint has taken `save` seconds, and a step `step`."""
        self._compare(seconds_needed(step=step, save=save), "needs, as measured,")

    def allows(self, save: float, *, since: float | None) -> bool:
        """Whether a checkpoint of `save` seconds can still be written when SIGTERM came at `since`, of the monotonic clock."""
        return since is None or time.monotonic() - since + save <= self.seconds

    @property
    def warning(self) -> str:
        """What is to be told of the estimate; empty when the grace period is long enough."""
        if self.needed <= self.seconds:
            return ""
        advice = (
            f"set runPolicy.gracePeriodSeconds to {self.needed}"
            if self.needed <= LONGEST
            else f"{LONGEST} s are the most that it may be: a faster link to the store, or more ranks, make it shorter"
        )
        return (
            f"a training that is stopped needs {self.needed} s for the step at hand and its checkpoint, and has "
            f"{self.seconds} s (runPolicy.gracePeriodSeconds); else it goes on from an earlier checkpoint; {advice}"
        )

    def _compare(self, needed: int, how: str) -> None:
        self.needed = needed
        if needed > max(self.seconds, self._warned):
            self._warned = needed
            log.warning("%s", self.warning.replace("needs", how, 1))
