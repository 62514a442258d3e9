"""The edit list of a track (ISO/IEC 14496-12, 8.6.6): which part of the media is shown when.

libavformat applies edit lists too, but it drops the frame that is on screen where an edit begins between two frames,
and plays media where an empty edit in the middle shows nothing new. So it is told to ignore them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

EARLIEST = Fraction(-(1 << 40))


class Timed(NamedTuple):
    """A frame with its place in time, in seconds."""

    seconds: Fraction
    duration: Fraction
    """0 when the file does not say it."""

    frame: Any


class Edit(NamedTuple):
    """One entry of an edit list, in seconds."""

    duration: Fraction
    """Of the presentation; 0 in a fragmented file: to the end."""

    media: Fraction | None
    """Where in the media it begins; None shows nothing."""

    rate: Fraction
    """Speed; 0 shows one frame all the time."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the presentation that shows media from one point on."""

    start: Fraction
    end: Fraction | None
    media: Fraction
    rate: Fraction = Fraction(1)

    def after(self, time: Fraction) -> Segment | None:
        """What is left of it from `time` of the presentation on."""
        if time <= self.start:
            return self
        if self.end is not None and self.end <= time:
            return None
        return replace(self, start=time, media=self.media + (time - self.start) * self.rate)

    def shown(self, frames: Iterator[Timed]) -> Iterator[Timed]:
        """Frames of the media, beginning at or before this segment, with their times in the presentation."""
        waiting: Timed | None = None
        for frame in frames:
            placed = self._placed(frame)
            if placed is None or placed.seconds <= self.start:
                waiting = self._first(frame)
                if self.rate == 0 and frame.seconds + frame.duration > self.media:
                    break
                continue
            if waiting is not None:
                yield waiting
                waiting = None
            if self.end is not None and placed.seconds >= self.end:
                return
            yield placed
        if waiting is not None:
            yield waiting

    def _placed(self, frame: Timed) -> Timed | None:
        """None when the segment stands still, and time does not move on with the media."""
        if self.rate == 0:
            return (
                None
                if frame.seconds <= self.media
                else Timed(self.end or self.start + 1, Fraction(0), frame.frame)
            )
        seconds = self.start + (frame.seconds - self.media) / self.rate
        return Timed(seconds, self._until(seconds, seconds + frame.duration / self.rate), frame.frame)

    def _first(self, frame: Timed) -> Timed:
        """The frame that is on screen when the segment begins."""
        if self.rate == 0:
            return Timed(self.start, (self.end or self.start) - self.start, frame.frame)
        end = self.start + (frame.seconds + frame.duration - self.media) / self.rate
        return Timed(self.start, self._until(self.start, end), frame.frame)

    def _until(self, start: Fraction, end: Fraction) -> Fraction:
        return max(Fraction(0), (end if self.end is None else min(end, self.end)) - start)


def segments(edits: Sequence[Edit]) -> list[Segment]:
    """The parts of the presentation in order; without edits all of the media, at its own times."""
    found: list[Segment] = []
    start = Fraction(0)
    for edit in edits:
        end = start + edit.duration
        if edit.media is not None:
            found.append(Segment(start, end if edit.duration else None, edit.media, edit.rate))
        start = end
    return found or [Segment(EARLIEST, None, EARLIEST)]
