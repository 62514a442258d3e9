"""Which frames of a clip of any frame rate, constant or not, make a clip of a constant one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Frame = TypeVar("Frame")
SLACK = 0.002
"""Seconds by which a timestamp may be late, since containers round them: rates like 60 to 30 then give no jitter."""


def on_screen(
    timed: Iterable[tuple[float, float, Frame]], *, fps: float, count: int, zero: float | None = None
) -> Iterator[Frame]:
    """The frame that a player shows in the middle of each of `count` intervals of 1/fps seconds.

    `timed` has (seconds, duration, frame) in the order of time; it is read no further than needed. The first interval
    begins at `zero`, or with the first frame. A frame is on screen until the next one; the last for its duration, or
    as long as the one before it where that is 0. Frames are repeated or left out where rates differ. A clip that ends
    early yields fewer.
    """
    done = 0
    held: Frame | None = None
    since = gap = lasts = 0.0
    started = False
    for time, duration, frame in timed:
        if not started:
            zero = time if zero is None else zero
            gap, started = 1.0 / fps, True
        else:
            gap = time - since
            upto = _targets_before(time - (zero or 0.0), fps, count)
            yield from (held for _ in range(done, upto))  # type: ignore[misc]  # a frame has come
            done = max(done, upto)
            if done == count:
                return
        held, since, lasts = frame, time, duration
    if started:
        upto = _targets_before(since + (lasts if lasts > 0 else gap) - (zero or 0.0), fps, count)
        yield from (held for _ in range(done, upto))  # type: ignore[misc]  # a frame has come


def is_wanted(start: float, lasts: float, *, fps: float, count: int) -> bool:
    """Whether a frame that comes `start` seconds after the first interval begins, and stays for `lasts`, is on screen in
    the middle of one of `count` intervals of 1/fps seconds."""
    return _targets_before(start, fps, count) < _targets_before(start + lasts, fps, count)


def frame_choice(timestamps: Sequence[float], *, fps: float, count: int, last: float = 0.0) -> list[int]:
    """Indices into `timestamps` (seconds) for `count` frames at `fps`; fewer when the clip is too short.

    `last` is the duration of the last frame; 0 when nothing says it.
    """
    timed = ((time, last, index) for index, time in enumerate(timestamps))
    return list(on_screen(timed, fps=fps, count=count))


def _targets_before(seconds: float, fps: float, count: int) -> int:
    """How many of the times (k + 1/2) / fps - SLACK, k < `count`, lie before `seconds`."""
    return max(0, min(count, math.ceil((seconds + SLACK) * fps - 0.5)))
