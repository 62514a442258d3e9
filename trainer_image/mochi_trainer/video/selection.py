"""Which frames of a clip of any frame rate, constant or not, make a clip of a constant one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Frame = TypeVar("Frame")
SLACK = 1e-4
"""Seconds by which a timestamp may be late: containers round them to their time base."""


def on_screen(timed: Iterable[tuple[float, Frame]], *, fps: float, count: int) -> Iterator[Frame]:
    """The frame that a player shows at each of the times 0, 1/fps, 2/fps ... after the first frame, `count` of them.

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
    """How many of the times k / fps, k < `count`, lie before `seconds`; one at `seconds` belongs to the next frame."""
    whole = int(max(0.0, seconds - SLACK) * fps) + 1 if seconds > SLACK else 0
    return min(count, whole)
