"""Where checkpoints lie, which of them a training goes on from, and which go: pure, over names.

A checkpoint has the attempt that wrote it in its name, but for attempt 1, whose names are those of earlier versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from mochi_api import layout

_PLACE = re.compile(r"checkpoints/step-(\d{6,})(?:-a([2-9]|[1-9]\d+))?/")


class Place(NamedTuple):
    """One checkpoint. A newer one is greater: first counts the step, then the attempt."""

    step: int
    attempt: int

    @property
    def prefix(self) -> str:
        """Its folder's key in the run's folder."""
        return layout.checkpoint("", self.step, self.attempt)


def places(keys: Iterable[str]) -> list[Place]:
    """The checkpoints that have at least one object, newest first, complete or not."""
    found = (_PLACE.match(key) for key in keys)
    return sorted({Place(int(match[1]), int(match[2] or 1)) for match in found if match}, reverse=True)


def next_to_try(found: Iterable[Place], tried: Collection[Place]) -> Place | None:
    """The newest checkpoint, of any attempt, that has not been tried."""
    return max((place for place in found if place not in tried), default=None)


def superfluous(
    found: Iterable[Place], complete: Callable[[Place], bool], *, saved: Place, keep_last: int
) -> list[Place]:
    """The checkpoints that go after `saved` was written: all older than the `keep_last` newest complete ones, broken or not.

    Those of newer attempts are none of ours. Those of later steps, which an earlier attempt wrote and which were not good
    enough to go on from, stay until training has come so far: they never take the place of one that is good.
    """
    kept, going = 0, []
    ours = (place for place in found if place.attempt <= saved.attempt and place.step <= saved.step)
    for place in sorted(ours, reverse=True):
        if kept >= keep_last:
            going.append(place)
        else:
            kept += complete(place)
    return going
