"""The frames of a clip at the times of its presentation, edits applied; and how long it is, without decoding."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.interlacing import progressive, told_fields
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.selection import on_screen
from mochi_trainer.video.streams import SEEK_FROM, Opened, clip_errors, frames_from, opened
from mochi_trainer.video.timeline import Held, Segment, Timed, left_of, segments

T = TypeVar("T")
INSTANT = 1e-6
"""Seconds: pictures that last no longer have no time at all."""


def presentation(
    clip: Opened, *, start: float = 0.0, interlaced: list[float] | None = None
) -> tuple[Iterator[Timed], float]:
    """The frames on screen from `start` seconds after the first picture on, progressive; and when that moment is.

    Near the beginning frames before it come too. Times at which something was interlaced are added to `interlaced`.
    """
    parts = segments(clip.header.edits(clip.stream))
    found = [] if interlaced is None else interlaced
    timed = _shown(clip, parts, found, again=False)
    first = next(timed, None)
    if first is None:
        return timed, 0.0
    zero = first.seconds + Fraction(start)
    if start >= SEEK_FROM:
        return _shown(clip, left_of(parts, zero), found, again=True), float(zero)
    return chain((first,), timed), float(zero)


def _shown(
    clip: Opened, parts: Sequence[Segment], interlaced: list[float], *, again: bool
) -> Iterator[Timed]:
    told = told_fields(clip.stream.codec_context.codec.canonical_name, clip.description.fields)
    for number, part in enumerate(parts):
        frames = frames_from(clip, part.media, again=again or number > 0)
        yield from part.shown(progressive(frames, interlaced, told))


def shown_frames(path: Path, fps: float, start: float, limits: Limits) -> int:
    """How many pictures a `Cut` at `fps` from `start` seconds on can have: those until the end of the presentation.

    Only the times of the frames are read. Raises ClipError when the file cannot be opened or ends before its index does.
    """
    with opened(path, limits) as clip, clip_errors("cannot be read as MP4 or MOV"):
        frames = _Listed(clip)
        if (lack := clip.lack) is not None:
            raise lack
        parts = segments(clip.header.edits(clip.stream))
        timed = (frame for part in parts for frame in part.shown(frames.since(part.media)))
        first = next(timed, None)
        if first is None:
            raise nothing_shown()
        seconds = ((float(at), float(lasts), frame) for at, lasts, frame in chain((first,), timed))
        zero, most = float(first.seconds + Fraction(start)), int(limits.seconds * fps) + 1
        ends = [zero]
        count = sum(1 for _ in on_screen(_noted(seconds, ends), fps=fps, count=most, zero=zero))
        if count == 0 and start == 0:
            raise none_shown(ends[0] - zero, fps)
        return count


def _noted(shown: Iterable[tuple[float, float, T]], ends: list[float]) -> Iterator[tuple[float, float, T]]:
    """The same; when the last picture is gone is put aside."""
    for at, lasts, frame in shown:
        ends[0] = at + lasts
        yield at, lasts, frame


def nothing_shown() -> ClipError:
    """What is said of a clip of which no picture is ever on screen, from whatever time on: it is not too short."""
    return ClipError(
        "no picture in it is ever on screen: it has none, or its times or edits are damaged",
        ClipReason.CORRUPT,
    )


def none_shown(seconds: float, fps: float) -> ClipError:
    """The same of a clip whose pictures have come and are gone `seconds` after the first: those may be too few to be seen."""
    if not INSTANT < seconds < (needed := 0.5 / fps):
        return nothing_shown()
    return ClipError(
        f"its pictures are on screen for {seconds:.3f} s in all; the first frame at {fps:g} fps is the one after {needed:.3f} s",
        ClipReason.TOO_SHORT,
    )


class _Listed:
    """The times of all frames of a clip, in the order of the presentation of its media."""

    def __init__(self, clip: Opened) -> None:
        times, durations = array("q"), array("q")
        for packet in clip.packets():
            if packet.pts is not None:
                times.append(packet.pts)
                durations.append(max(packet.duration or 0, 0))
        order = np.argsort(np.array(times, np.int64), kind="stable").tolist()
        self._times = array("q", (times[index] for index in order))
        self._durations = array("q", (durations[index] for index in order))
        self._base = Fraction(clip.stream.time_base)

    def since(self, media: Fraction) -> Iterator[Timed]:
        """Frames, without their pictures, from the one on screen at `media` seconds of the media on."""
        first = max(0, bisect_right(self._times, media / self._base) - 1)
        for index in range(first, len(self._times)):
            yield Timed(self._times[index] * self._base, self._durations[index] * self._base, Held(None))
