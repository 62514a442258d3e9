"""Which frames of a clip of any frame rate, constant or not, make a clip of a constant one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Frame = TypeVar("Frame")
SLACK = 0.002
"""Seconds by which a timestamp may be late, since containers round them: rates like 60 to 30 then give no jitter."""


def on_screen(timed: Iterable[tuple[float, Frame]], *, fps: float, count: int) -> Iterator[Frame]:
    """The frame that a player shows in the middle of each of the first `count` intervals of 1/fps seconds.

    `timed` has (seconds, frame) in the order of time; it is read no further than needed. Frames are repeated or left
    out where rates differ. The last frame lasts as long as the one before it. A clip that ends early yields fewer.
    """
    done = 0
    start = 0.0
    held: tuple[float, Frame] | None = None
    gap = 1.0 / fps
    for time, frame in timed:
        if held is None:
            start = time
        else:
            gap = time - held[0]
            upto = _targets_before(time - start, fps, count)
            yield from (held[1] for _ in range(done, upto))
            done = max(done, upto)
            if done == count:
                return
        held = (time, frame)
    if held is not None:
        upto = _targets_before(held[0] + gap - start, fps, count)
        yield from (held[1] for _ in range(done, upto))


def frame_choice(timestamps: Sequence[float], *, fps: float, count: int) -> list[int]:
    """Indices into `timestamps` (seconds) for `count` frames at `fps`; fewer when the clip is too short."""
    return list(on_screen(((time, index) for index, time in enumerate(timestamps)), fps=fps, count=count))


def _targets_before(seconds: float, fps: float, count: int) -> int:
    """How many of the times (k + 1/2) / fps - SLACK, k < `count`, lie before `seconds`."""
    return max(0, min(count, math.ceil((seconds + SLACK) * fps - 0.5)))
