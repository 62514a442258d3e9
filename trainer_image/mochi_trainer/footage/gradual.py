"""Changes of shot that take time: through black, white or another blank picture, and dissolves.

Shapes: T frames, (36, 64, 3) each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mochi_trainer.footage.bars import unlike_inside
from mochi_trainer.footage.likeness import HEIGHT, WIDTH, Floats, Frames, luma

BLANK = 4.0
"""Standard deviation of a picture's luma, in levels, up to which there is nothing in it."""

DIMMING = 1.01
"""In a fade the contrast falls from frame to frame by at least this factor."""

LONGEST = 45
"""Frames of one fade or dissolve on one side of its middle: 1.5 s at 30 a second."""

UNLIKE = 0.23
"""Unlikeness of the two sides of a blank stretch, as for hard cuts."""

FAINT = 0.5
"""A picture beside a blank one with less than this part of the contrast further on is on its way: a fade."""

HALVES = (3, 4, 5, 7, 9, 12, 16)
"""Frames from the middle of a dissolve to its ends."""

RESIDUAL = 0.2
"""What is left of a picture, in parts of the energy of the difference, when a mixture of the two ends is taken off. In
the tuning half dissolves have 0.17 and less; pans leave more, or their ends are alike."""

SHARES = ((0.25, 0.08, 0.45), (0.5, 0.33, 0.67), (0.75, 0.55, 0.92))
"""Where between the ends a picture is, and between which limits lies the share that the second end must have in it."""

CONTRAST = 150.0
"""Mean squared difference of the ends, in levels squared, from which on they can be told to be different."""

BEYOND = 3
"""Frames beyond the ends of a mixture, which is often shorter than the dissolve, at which the shots are pure."""

FAR = 0.33
"""Unlikeness there."""

JITTER = ((0, 0), (1, 1), (2, 0), (0, 2))
"""Frames by which both ends are moved outwards; the most alike pair counts, so that one odd frame is no change."""

LONGER = 0.012
"""Residual that one more frame to each side is worth: the longest mixture is wanted, not its middle alone."""

MIXED, NEAR_SURE, NEAR = 0.055, 0.14, 0.2
"""How unlike the two ends of the mixture must be: where its residual is up to the first number, and where it is not."""

POOL = 3


def blanks(film: Frames) -> Iterator[tuple[int, int]]:
    """(begin, end) of each stretch of blank pictures, with the fades around it, whose two sides are unlike."""
    contrast = luma(film).std(axis=(1, 2))
    for start, end in _runs(contrast <= BLANK):
        begin = _faded(contrast, start, -1) + 1
        stop = _faded(contrast, end - 1, 1)
        if begin > 0 and stop < len(film) and _unlike(film, begin - 1, stop) >= UNLIKE:
            yield begin, stop


def _runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.pad(marked.astype(np.int8), 1)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _faded(contrast: Floats, at: int, way: int) -> int:
    """The first whole picture on the way from the blank one `at`; where it comes at once there was no fade."""
    whole = at + way
    for _ in range(LONGEST):
        beyond = whole + way
        if not 0 <= beyond < len(contrast) or contrast[beyond] < DIMMING * contrast[whole]:
            break
        whole = beyond
    beside = at + way
    sudden = 0 <= beside < len(contrast) and contrast[beside] >= FAINT * contrast[whole]
    return beside if sudden else whole


def _unlike(film: Frames, left: int, right: int) -> float:
    """Unlikeness of the most alike pair of pictures around `left` and `right`; 0 beyond the ends of the film."""
    pairs = [(left - a, right + b) for a, b in JITTER]
    return min((unlike_inside(film[a], film[b]) for a, b in pairs if a >= 0 and b < len(film)), default=0.0)


def dissolves(film: Frames) -> list[tuple[int, int]]:
    """(begin, end) of each dissolve: its pictures are mixtures of its two ends, and these are unlike."""
    residual, half = _best_blends(_pooled(film))
    found: list[tuple[int, int]] = []
    for at in (int(k) for k in np.argsort(residual, kind="stable")):
        if residual[at] > RESIDUAL:
            break
        begin, end = at - int(half[at]) + 1, at + int(half[at])
        beside = residual[max(0, at - 3) : at + 4]
        if residual[at] > beside.min() or any(begin <= e and end >= b for b, e in found):
            continue
        near, far = (_unlike(film, begin - 1 - out, end + out) for out in (0, BEYOND))
        if near >= (NEAR_SURE if residual[at] <= MIXED else NEAR) and far >= FAR:
            found.append((begin, end))
    return sorted(found)


def _pooled(film: Frames) -> Floats:
    """(T, N): each picture at a third of its size, as one row."""
    shape = (len(film), HEIGHT // POOL, POOL, WIDTH // (POOL + 1), POOL + 1, 3)
    return np.asarray(film.reshape(shape).mean((2, 4)).reshape(len(film), -1), np.float32)


def _best_blends(pooled: Floats) -> tuple[Floats, np.ndarray]:
    """For each frame the smallest residual over all lengths, and the half length that has it; 9 where none fits."""
    value = np.full(len(pooled), 9.0)
    best, half = np.full(len(pooled), 9.0, np.float32), np.zeros(len(pooled), int)
    for h in HALVES:
        if len(pooled) <= 2 * h:
            break
        residual = _blend_residual(pooled, h)
        worth = np.where(residual <= RESIDUAL, residual - LONGER * h, 9.0)
        better = worth < value
        best[better], half[better], value[better] = residual[better], h, worth[better]
    return best, half


def _blend_residual(pooled: Floats, h: int) -> Floats:
    """How badly the frames between t - h and t + h are mixtures of these two, in the order in which a dissolve mixes."""
    start, end = pooled[: -2 * h], pooled[2 * h :]
    difference = end - start
    energy = (difference**2).sum(1) + 1e-3
    worst = np.where(energy / pooled.shape[1] >= CONTRAST, 0.0, 9.0)
    for place, least, most in SHARES:
        offset = round(2 * h * place)
        rest = pooled[offset : offset + len(start)] - start
        share = (rest * difference).sum(1) / energy
        residual = ((rest - share[:, None] * difference) ** 2).sum(1) / energy
        worst = np.maximum(worst, np.where((share >= least) & (share <= most), residual, 9.0))
    out = np.full(len(pooled), 9.0, np.float32)
    out[h : len(pooled) - h] = worst
    return out
