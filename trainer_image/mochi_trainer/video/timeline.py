"""The edit list of a track (ISO/IEC 14496-12, 8.6.6): which part of the media is shown when.

libavformat applies edit lists too, but it drops the frame that is on screen where an edit begins between two frames,
and plays media where an empty edit in the middle shows nothing new. So it is told to ignore them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
EARLIEST = Fraction(-(1 << 40))
MOMENT = Fraction(1, 1_000_000)
"""Seconds: no frame is shorter."""


class Held:
    """A decoded frame until something is made of it; then that alone, so that the decoder has the memory for its next one."""

    __slots__ = ("_frame", "_made")

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._made: Any = None

    @property
    def frame(self) -> Any:
        """The frame; None when something was made of it."""
        return self._frame

    def made(self, make: Callable[[Any], T]) -> T:
        """What `make` makes of the frame, once; later calls give the same."""
        if self._frame is not None:
            self._made, self._frame = make(self._frame), None
        made: T = self._made
        return made


class Timed(NamedTuple):
    """A frame with its place in time, in seconds."""

    seconds: Fraction
    duration: Fraction
    """0 when the file does not say it."""

    held: Held


class Edit(NamedTuple):
    """One entry of an edit list, in seconds."""

    duration: Fraction
    """Of the presentation; 0 for the last one, as in a fragmented file: to the end."""

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
        """Frames of the media, beginning at or before this segment, with their times in the presentation.

        The last one comes again where it stays longer than its sample says, until the next would come.
        """
        waiting: Timed | None = None
        last: Timed | None = None
        for frame in frames:
            placed = self._placed(frame)
            if placed is None or placed.seconds <= self.start:
                waiting = self._first(frame)
                continue
            if waiting is not None:
                last, waiting = waiting, None
                yield last
            if self.end is not None and placed.seconds >= self.end:
                if last is not None and last.duration < self.end - last.seconds:
                    yield last._replace(duration=self.end - last.seconds)
                return
            last = placed
            yield last
        if waiting is not None:
            yield waiting

    def _placed(self, frame: Timed) -> Timed | None:
        """None when the segment stands still, and time does not move on with the media."""
        if self.rate == 0:
            return (
                None
                if frame.seconds <= self.media
                else Timed(self.end or self.start + 1, Fraction(0), frame.held)
            )
        seconds = self.start + (frame.seconds - self.media) / self.rate
        return Timed(seconds, self._lasts(frame, seconds, frame.seconds), frame.held)

    def _first(self, frame: Timed) -> Timed:
        """The frame that is on screen when the segment begins."""
        if self.rate == 0:
            return Timed(self.start, (self.end or self.start) - self.start, frame.held)
        return Timed(self.start, self._lasts(frame, self.start, self.media), frame.held)

    def _lasts(self, frame: Timed, shown: Fraction, since: Fraction) -> Fraction:
        """How long a frame that is `shown` from `since` of the media on stays at the end; 0 when nothing says it."""
        if frame.duration == 0:
            return frame.duration
        end = shown + (frame.seconds + frame.duration - since) / self.rate
        return max(MOMENT, (end if self.end is None else min(end, self.end)) - shown)


def left_of(parts: Sequence[Segment], time: Fraction) -> list[Segment]:
    """What is left of the presentation from `time` on, with the picture that is held where `time` is in a gap."""
    left = [part for whole in parts if (part := whole.after(time)) is not None]
    over = [part for part in parts if part.end is not None and part.end <= time]
    if over and left and left[0].start > time:
        last = over[-1]
        return [last.after((last.end or time) - MOMENT) or last, *left]
    return left


def segments(edits: Sequence[Edit]) -> list[Segment]:
    """The parts of the presentation in order; without edits all of the media, at its own times."""
    found: list[Segment] = []
    start = Fraction(0)
    last = max((place for place, edit in enumerate(edits) if edit.media is not None), default=0)
    for place, edit in enumerate(edits):
        end = start + edit.duration
        if edit.media is not None and (edit.duration or place == last):
            found.append(Segment(start, end if edit.duration else None, edit.media, edit.rate))
        start = end
    return found or [Segment(EARLIEST, None, EARLIEST)]
