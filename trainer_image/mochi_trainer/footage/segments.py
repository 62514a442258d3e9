"""Which parts of a long clip to use: pieces of one length, spread evenly, or inside its shots; pure, in seconds or frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 0.1
"""Seconds left out on each side of a change of shot: 3 frames at 30 fps, since codecs smear a cut over its neighbours."""

SLACK = 1e-6
"""Seconds by which a stretch may be too short: sums of times are not exact."""


@dataclass(frozen=True, order=True, slots=True)
class Stretch:
    """A part of a clip from `start` to `end`, in seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


def even_segments(whole: Stretch, *, seconds: float, count: int) -> list[Stretch]:
    """At most `count` pieces of `seconds`, each in the middle of an equal part of `whole`; fewer where they do not fit.

    Pieces never overlap. Raises ValueError unless both numbers are positive.
    """
    if seconds <= 0 or count < 1:
        raise ValueError(f"there must be at least 1 segment of more than 0 s, got {count} of {seconds} s")
    fitting = min(count, int((whole.seconds + SLACK) / seconds))
    part = whole.seconds / fitting if fitting else 0.0
    starts = [whole.start + part * (k + 0.5) - seconds / 2 for k in range(fitting)]
    return [Stretch(max(whole.start, start), max(whole.start, start) + seconds) for start in starts]


def shots(whole: Stretch, changes: Sequence[Stretch], *, margin: float = MARGIN) -> list[Stretch]:
    """What lies between the changes of shot, `margin` away from each; `changes` in order, a hard cut of length 0."""
    starts = [whole.start, *(change.end + margin for change in changes)]
    ends = [*(change.start - margin for change in changes), whole.end]
    return [Stretch(start, end) for start, end in zip(starts, ends, strict=True) if end > start]


def shot_segments(
    whole: Stretch, changes: Sequence[Stretch], *, seconds: float, count: int, margin: float = MARGIN
) -> list[Stretch]:
    """At most `count` pieces of `seconds`, none over a change of shot, in order; chosen as by `pieces_of`.

    Raises ValueError as `even_segments` does.
    """
    return pieces_of(shots(whole, changes, margin=margin), seconds=seconds, count=count)


def pieces_of(found: Sequence[Stretch], *, seconds: float, count: int) -> list[Stretch]:
    """At most `count` pieces of `seconds`, each in one of the shots `found`, in order.

    Each shot that is long enough gives one before any gives two: the next piece comes from the shot that has most
    seconds for each of its pieces. Raises ValueError as `even_segments` does.
    """
    if count < 1:
        raise ValueError(f"there must be at least 1 segment, got {count}")
    taken = {shot: 0 for shot in found if shot.seconds + SLACK >= seconds}
    for _ in range(count):
        free = [shot for shot, used in taken.items() if shot.seconds + SLACK >= (used + 1) * seconds]
        if not free:
            break
        taken[max(free, key=lambda shot: (not taken[shot], shot.seconds / (taken[shot] + 1)))] += 1
    return [
        piece
        for shot, used in taken.items()
        if used
        for piece in even_segments(shot, seconds=seconds, count=used)
    ]


def even_starts(frames: int, *, kept: int, most: int) -> list[int]:
    """First frames of at most `most` segments of `kept` frames, spread evenly over `frames` frames, none over another."""
    return _starts([Stretch(0, frames)], kept, most)


def shot_frames(changes: Sequence[Stretch], frames: int, *, fps: float, start: float) -> list[Stretch]:
    """The shots of a clip in frames, from the first to behind the last, as far as they lie among `frames` frames at `fps`
    from `start` seconds on. Each frame, as long as it is on screen, is `MARGIN` and more away from any change."""
    whole = Stretch(start, start + frames / fps)
    inside = [c for c in changes if c.end > whole.start - MARGIN and c.start < whole.end + MARGIN]
    found = (
        Stretch(math.ceil((shot.start - start) * fps - SLACK), math.floor((shot.end - start) * fps + SLACK))
        for shot in shots(whole, inside)
    )
    return [shot for shot in found if shot.end > shot.start]


def shot_starts(found: Sequence[Stretch], *, kept: int, most: int) -> list[int]:
    """First frames of at most `most` segments of `kept` frames that lie in the shots of `shot_frames`."""
    return _starts(found, kept, most)


def _starts(found: Sequence[Stretch], kept: int, most: int) -> list[int]:
    return [math.floor(piece.start + SLACK) for piece in pieces_of(found, seconds=kept, count=most)]
