"""Where in a clip its segments begin: one, several spread evenly, or several inside its shots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mochi_api.clips import ClipReason
from mochi_api.resolved import Segments
from mochi_trainer.errors import ClipError
from mochi_trainer.footage.passes import changes_of_shot, parts_of_film
from mochi_trainer.footage.segments import Stretch, even_starts, shot_frames, shot_starts
from mochi_trainer.movement import PROCESS
from mochi_trainer.video import Cut, Limits, Readers, probe, shown_frames


def starts(path: Path, cut: Cut, segments: Segments, readers: Readers, limits: Limits) -> list[float]:
    """The start of each segment of `cut.frames` frames, in seconds from the first picture; at least one.

    A segment begins a whole number of frames after `cut.start_seconds`. Raises ClipError when the file cannot be read to
    its end or no shot is long enough; a clip that is too short altogether has one start, and cutting there says so.
    """
    if segments.select == "First":
        return [cut.start_seconds]
    there = readers.run(shown_frames, path, cut.fps, cut.start_seconds, limits)
    if there < cut.frames:
        return [cut.start_seconds]
    if segments.select == "Even":
        firsts = even_starts(there, kept=cut.frames, most=segments.most)
    else:
        changes = _changes(path, cut.start_seconds + there / cut.fps, readers, limits)
        shots = shot_frames(changes, there, fps=cut.fps, start=cut.start_seconds)
        firsts = shot_starts(shots, kept=cut.frames, most=segments.most)
        if not firsts:
            raise _no_shot(shots, cut)
    return [cut.start_seconds + first / cut.fps for first in firsts]


def _changes(path: Path, seconds: float, readers: Readers, limits: Limits) -> list[Stretch]:
    """The changes of shot, part by part, so that a film of hours has the time that it needs and a part that hangs does not."""
    found: list[Stretch] = []
    for part in parts_of_film(seconds, readers.run(probe, path)):
        found += readers.run(changes_of_shot, path, limits, part)
        PROCESS.moved()
    return found


def _no_shot(shots: Sequence[Stretch], cut: Cut) -> ClipError:
    longest = max((shot.seconds for shot in shots), default=0)
    return ClipError(
        f"{cut.frames} frames at {cut.fps:g} fps take {cut.frames / cut.fps:.2f} s, none of its {len(shots)} shots has "
        f"so many: the longest has {longest:g} ({longest / cut.fps:.2f} s), changes of shot left out",
        ClipReason.TOO_SHORT,
    )
