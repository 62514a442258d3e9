"""Which clips are copies of others: scaled, encoded again, brighter, cropped a little, mirrored.

A copy has to look the same and to move the same: the same place at another time is another clip.
Shapes: K pictures of S x S luma, as in `signatures`, N = S x S; V = 19 crops of a clip, the whole picture first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mochi_trainer.footage.likeness import Floats, Frames
from mochi_trainer.footage.signatures import PICTURES, SIDE, Signature

CROPS = (1.0, 0.95, 0.9)
"""Sides of the part of one clip that the other may show; a tenth and more off a side is no slight crop."""

PLACES = (0.0, 0.5, 1.0)
"""Where in the room that a crop leaves it lies, across and down."""

WORTH_A_LOOK = 0.6
"""Correlation without alignment below which no alignment helps."""

ALIKE = 0.9
"""Mean correlation of the pictures of a copy with those of its original, well aligned: 0.93 and more in the tuning half."""

MOVING = 2.0
"""Levels of 255 that pictures differ from their mean over time, root mean square, from which on something moves."""

SAME_MOTION = 0.5
"""Correlation of these differences in a copy. In the tuning half of the tests copies have 0.69 and more, clips of the same
place at another time 0.29 and less."""

RIVALRY = 2.5
"""How many times more one clip may move than the other: encoders and light change it, a still picture is no copy."""

STRUCTURE = 3.0
"""Standard deviation, in levels, below which a picture has nothing to recognise it by."""

AT_ONCE = 16
"""Clips that one clip is compared with at once: so few that BLAS takes one thread, and nobody waits for the others."""

Pair = tuple[int, int]


def is_copy(one: Signature, other: Signature) -> bool:
    """Whether either clip is a copy of the other, mirrored or not; clips of nearly empty pictures never are."""
    return bool(copies([one, other], [(0, 1)])[0])


def copies(signatures: Sequence[Signature], pairs: Sequence[Pair]) -> NDArray[np.bool_]:
    """For each of the `pairs` of clips, by their numbers, whether either is a copy of the other.

    The crops of a clip are made once, whatever the number of its pairs.
    """
    likeness = np.zeros((2, len(pairs)), np.float32)
    moves_alike = np.zeros((2, len(pairs)), bool)
    for clip, places, others in _partners(pairs):
        one = _Seen(signatures[clip].pictures)
        for begin in range(0, len(others), AT_ONCE):
            flat = _flat(np.stack([signatures[each].pictures for each in others[begin : begin + AT_ONCE]]))
            units = _units(flat)
            for mirrored, worth in enumerate(one.worth_a_look(flat, units)):
                if len(worth):
                    alike, moves = _compared(*one.views(mirrored), flat[worth], units[worth])
                    at = np.array(places[begin : begin + AT_ONCE])[worth]
                    better = alike > likeness[mirrored, at]
                    likeness[mirrored, at[better]] = alike[better]
                    moves_alike[mirrored, at[better]] = moves[better]
    return np.asarray(((likeness >= ALIKE) & moves_alike).any(0))


def _partners(pairs: Sequence[Pair]) -> Iterator[tuple[int, list[int], list[int]]]:
    """Each clip that is in a pair, the places of its pairs among all, and the other clips of these."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for place, pair in enumerate(pairs):
        for clip, other in (pair, pair[::-1]):
            places, others = found.setdefault(clip, ([], []))
            places.append(place)
            others.append(other)
    for clip, (places, others) in sorted(found.items()):
        yield clip, places, others


class _Seen:
    """One clip (K, S, S) as it is and as a mirror shows it."""

    def __init__(self, pictures: Frames) -> None:
        self._both = pictures, pictures[..., ::-1]
        flat = _flat(np.stack(self._both))
        self._units, self._solid = _units(flat), bool(_has_structure(flat)[0])
        self._views: dict[int, tuple[Floats, Floats]] = {}

    def worth_a_look(self, others: Floats, units: Floats) -> Iterator[NDArray[np.intp]]:
        """Which of (P, K, N) an alignment could make copies of this clip, and which of its mirror."""
        possible = _has_structure(others) & self._solid
        for alike in _likeness(self._units, units):
            yield np.flatnonzero(possible & (alike >= WORTH_A_LOOK))

    def views(self, mirrored: int) -> tuple[Floats, Floats]:
        """All crops, (V, K, N), and their `_units`; made when they are first asked for."""
        if mirrored not in self._views:
            views = _views(self._both[mirrored])
            self._views[mirrored] = views, _units(views)
        return self._views[mirrored]


def _compared(
    views: Floats, view_units: Floats, others: Floats, units: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Of (V, K, N) and (P, K, N): how like the best view each other clip is, and whether it moves like that one."""
    alike = _likeness(view_units, units)
    best, likeness = alike.argmax(0), alike.max(0)
    moves = np.zeros(len(others), bool)
    (close,) = np.nonzero(likeness >= ALIKE)
    if len(close):
        moves[close] = _move_alike(views[best[close]], others[close])
    return likeness, moves


def _likeness(ones: Floats, others: Floats) -> Floats:
    """`_units` (V, K, N) and (P, K, N) to (V, P): the mean correlation of their pictures."""
    products = np.matmul(ones.transpose(1, 0, 2), others.transpose(1, 2, 0))
    return np.asarray(products.sum(0) / PICTURES)


def _move_alike(ones: Floats, others: Floats) -> NDArray[np.bool_]:
    """(P, K, N) and (P, K, N) to (P,): whether both differ from their means over time in the same way."""
    first, second = ones - ones.mean(1, keepdims=True), others - others.mean(1, keepdims=True)
    powers = np.sqrt(np.stack([np.square(part).mean((1, 2)) for part in (first, second)]))
    still = powers.max(0) < MOVING
    rivals = powers.max(0) > RIVALRY * np.maximum(powers.min(0), MOVING / RIVALRY)
    norm = np.sqrt(np.square(first).sum((1, 2)) * np.square(second).sum((1, 2)))
    same = (first * second).sum((1, 2)) >= SAME_MOTION * norm
    return np.asarray(still | (~rivals & same))


def _has_structure(clips: Floats) -> NDArray[np.bool_]:
    """(P, K, N) to (P,)."""
    return np.asarray(clips.std(2).mean(1) >= STRUCTURE)


def _flat(pictures: Frames) -> Floats:
    """(P, K, S, S) to (P, K, N)."""
    return pictures.reshape(*pictures.shape[:2], -1).astype(np.float32)


def _units(clips: Floats) -> Floats:
    """(P, K, N): pictures of mean 0 and length 1."""
    centred = clips - clips.mean(2, keepdims=True)
    length = np.sqrt(np.square(centred).sum(2, keepdims=True))
    return np.asarray(centred / np.maximum(length, 1e-6))


def _views(pictures: Frames) -> Floats:
    """(K, S, S) to (V, K, N): what each crop shows of them, at their size."""
    rows, columns = _resamplings()
    tall = rows @ pictures.transpose(1, 0, 2).reshape(SIDE, -1).astype(np.float32)
    wide = tall.reshape(len(rows), -1, SIDE) @ columns.transpose(0, 2, 1)
    turned = wide.reshape(len(rows), SIDE, len(pictures), SIDE).transpose(0, 2, 1, 3)
    return turned.reshape(len(rows), len(pictures), -1)


@cache
def _resamplings() -> tuple[Floats, Floats]:
    """(V, S, S) for rows and the same for columns: all crops, the whole picture first."""
    parts = [(side, x, y) for side in CROPS if side < 1 for x in PLACES for y in PLACES]
    crops = [(1.0, 0.0, 0.0), *parts]
    rows = [_resampling(side, down) for side, _, down in crops]
    return np.stack(rows), np.stack([_resampling(side, across) for side, across, _ in crops])


def _resampling(side: float, place: float) -> Floats:
    """(S, S): each output sample from the two nearest inputs."""
    at = np.clip((np.arange(SIDE) + 0.5) * side + place * SIDE * (1 - side) - 0.5, 0, SIDE - 1)
    low = np.minimum(at.astype(int), SIDE - 2)
    matrix = np.zeros((SIDE, SIDE), np.float32)
    matrix[np.arange(SIDE), low] = 1 - (at - low)
    matrix[np.arange(SIDE), low + 1] += at - low
    return matrix
