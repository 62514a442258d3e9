"""Where a film changes from one shot to the next: hard cuts, dissolves, fades.

The input is a stream of small pictures (36, 64, 3) uint8 at 20 to 31 a second. A change is looked for in two passes over
a stretch of the film: a cheap one that marks where the picture changes more than around it, and a test that compares
pictures before and after, so that flashes, pans, zooms, lamps and passers-by are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mochi_trainer.footage.bars import unlike_inside, without_bars
from mochi_trainer.footage.gradual import blanks, dissolves
from mochi_trainer.footage.likeness import Floats, Frames, luma

LEAST_STEP = 5.0
"""Mean difference of two frames, in levels of 255, below which nobody sees a cut."""

STEP_RATIO = 1.5
"""A cut changes the picture by this much more than the median of the `AROUND` frames on each side do."""

AROUND = 8
CALM = 1.0
"""Levels added to that median: in a still shot any flicker would be a multiple of nothing."""

UNLIKE = 0.23
"""Unlikeness of the pictures on the two sides of a cut. In the tuning half of the tests most cuts have 0.26 and more, 98 %
of the changes inside shots 0.18 and less."""

ALONE, UNLIKE_ALONE = 4.0, 0.17
"""A step that is this many times the usual one needs less: shots of plain walls and streets are all a little alike."""

FLASH = 4
"""Frames after which a flash, or a frame that was dropped, is over."""

APART = 8
"""Frames around a change in which a slower one is the same, seen twice: no shot is that short."""

STRETCH, OVERLAP = 1500, 96
"""Frames of one pass and how many of its neighbours it sees: memory is bounded whatever the length of the film."""


@dataclass(frozen=True, order=True, slots=True)
class Cut:
    """Frames before `begin` belong to the shot before, from `end` on to the next; a hard cut has begin = end."""

    begin: int
    end: int


def cuts(frames: Iterable[Frames]) -> Iterator[Cut]:
    """The changes of shot in a film, in order; holds `STRETCH` + 2 x `OVERLAP` pictures."""
    held: list[Frames] = []
    first = done = 0
    for picture in frames:
        held.append(picture)
        if first + len(held) >= done + STRETCH + OVERLAP:
            yield from _between(np.stack(held), first, done, done + STRETCH)
            done += STRETCH
            held = held[max(0, done - OVERLAP - first) :]
            first = max(first, done - OVERLAP)
    if held:
        yield from _between(np.stack(held), first, done, first + len(held))


def _between(film: Frames, offset: int, start: int, end: int) -> Iterator[Cut]:
    """Changes that begin at frames `start` to `end` - 1; `film` starts at frame `offset`."""
    for cut in stretch_cuts(film):
        if start <= cut.begin + offset < end:
            yield Cut(cut.begin + offset, cut.end + offset)


def stretch_cuts(film: Frames) -> list[Cut]:
    """The changes of shot in (T, 36, 64, 3), in order."""
    film = without_bars(film, luma(film).mean(0))
    found = [Cut(*span) for span in blanks(film)]
    for at in hard_cuts(film):
        if not _covered(at, at, found):
            found.append(Cut(at, at))
    for begin, end in dissolves(film):
        if not _covered(begin, end, found):
            found.append(Cut(begin, end))
    return sorted(found)


def _covered(begin: int, end: int, found: list[Cut]) -> bool:
    return any(begin <= cut.end + APART and end >= cut.begin - APART for cut in found)


def hard_cuts(film: Frames) -> list[int]:
    """First frames of new shots in (T, 36, 64, 3)."""
    steps = _steps(film)
    ratio = steps / (_around(steps) + CALM)
    sudden = (int(at) for at in np.flatnonzero((steps >= LEAST_STEP) & (ratio >= STEP_RATIO)))
    return [
        at
        for at in sudden
        if _largest(steps, at) and _separates(film, at, UNLIKE_ALONE if ratio[at] >= ALONE else UNLIKE)
    ]


def _steps(film: Frames) -> Floats:
    """Mean difference of each frame to the one before, in levels; 0 for the first."""
    steps = [np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(film)]
    return np.array([0.0, *steps], np.float32)


def _around(steps: Floats) -> Floats:
    """Median of the steps on both sides of each one, itself left out."""
    sides = [
        np.r_[steps[max(0, at - AROUND) : at], steps[at + 1 : at + 1 + AROUND]] for at in range(len(steps))
    ]
    return np.array([np.median(side) if len(side) else 0.0 for side in sides], np.float32)


def _largest(steps: Floats, at: int) -> bool:
    return bool(steps[at] == steps[max(0, at - 2) : at + 3].max())


def _separates(film: Frames, at: int, least: float) -> bool:
    """Whether no picture just before `at` looks like one just after; the first that does ends the search."""
    pairs = [(at - 1, at + k) for k in range(FLASH + 1)] + [(at - k, at) for k in range(2, FLASH + 2)]
    return all(unlike_inside(film[a], film[b]) >= least for a, b in pairs if a >= 0 and b < len(film))
