"""What a copy is, pair by pair and crop by crop: the definition that `mochi_trainer.footage.copies` is compared with.

Shapes: K pictures of S x S luma, as in `signatures`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mochi_trainer.footage.copies import (
    ALIKE,
    CROPS,
    MOVING,
    PLACES,
    RIVALRY,
    SAME_MOTION,
    STRUCTURE,
    WORTH_A_LOOK,
)
from mochi_trainer.footage.likeness import Floats, Frames
from mochi_trainer.footage.signatures import SIDE, Signature


def is_copy(one: Signature, other: Signature) -> bool:
    """Whether either clip is a copy of the other, mirrored or not; clips of nearly empty pictures never are."""
    first = one.pictures
    return any(_same(first, second) for second in (other.pictures, other.pictures[:, :, ::-1]))


def _same(one: Frames, other: Frames) -> bool:
    if min(one.std(axis=(1, 2)).mean(), other.std(axis=(1, 2)).mean()) < STRUCTURE:
        return False
    if _likeness(one, other) < WORTH_A_LOOK:
        return False
    views = [(_view(one, *crop), _flat(other)) for crop in _crops()]
    views += [(_flat(one), _view(other, *crop)) for crop in _crops()[1:]]
    likeness = [float((_unit(a) * _unit(b)).sum(1).mean()) for a, b in views]
    best = int(np.argmax(likeness))
    return likeness[best] >= ALIKE and _moves_alike(*views[best])


def _likeness(one: Frames, other: Frames) -> float:
    return float((_unit(_flat(one)) * _unit(_flat(other))).sum(1).mean())


def _moves_alike(one: Floats, other: Floats) -> bool:
    """Whether (K, N) and (K, N) differ from their means over time in the same way."""
    first, second = one - one.mean(0), other - other.mean(0)
    powers = sorted(float(np.sqrt((part**2).mean())) for part in (first, second))
    if powers[1] < MOVING:
        return True
    if powers[1] > RIVALRY * max(powers[0], MOVING / RIVALRY):
        return False
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())) >= SAME_MOTION


def _flat(pictures: Frames | Floats) -> Floats:
    return pictures.reshape(len(pictures), -1).astype(np.float32)


def _unit(rows: Floats) -> Floats:
    """Rows of mean 0 and length 1."""
    centred = rows - rows.mean(1, keepdims=True)
    return np.asarray(centred / np.maximum(np.sqrt((centred**2).sum(1, keepdims=True)), 1e-6))


def _crops() -> list[tuple[float, float, float]]:
    """(side, place across, place down) of all crops; the whole picture first."""
    parts = [(side, x, y) for side in CROPS if side < 1 for x in PLACES for y in PLACES]
    return [(1.0, 0.0, 0.0), *parts]


def _view(pictures: Frames, side: float, across: float, down: float) -> Floats:
    """(K, S, S) to (K, N): what a crop shows of them, at their size."""
    rows, columns = _resampling(side, down), _resampling(side, across)
    return _flat(rows @ pictures.astype(np.float32) @ columns.T)


@cache
def _resampling(side: float, place: float) -> Floats:
    """(S, S): each output sample from the two nearest inputs."""
    at = np.clip((np.arange(SIDE) + 0.5) * side + place * SIDE * (1 - side) - 0.5, 0, SIDE - 1)
    low = np.minimum(at.astype(int), SIDE - 2)
    matrix = np.zeros((SIDE, SIDE), np.float32)
    matrix[np.arange(SIDE), low] = 1 - (at - low)
    matrix[np.arange(SIDE), low + 1] += at - low
    return matrix
