"""Which checkpoint is the best, and from which step on training no longer helps, by the loss of the held out clips: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

LATER = 3
"""So many evaluations in a row, the last ones, must be worse than the best for training to overfit."""
WORSE = 1.01
"""And each of them by this factor: the noise is the same each time, but training is not."""


class Best(NamedTuple):
    """The checkpoint with the lowest loss."""

    step: int
    loss: float


def best(losses: Mapping[int, float], saved: Collection[int]) -> Best | None:
    """The step with the lowest loss among those that have a checkpoint; the earliest of several; None without any."""
    found = [Best(step, losses[step]) for step in sorted(saved) if step in losses]
    return min(found, key=lambda each: each.loss, default=None)


def overfits_from(losses: Mapping[int, float]) -> int | None:
    """The step with the lowest loss of all, when the last evaluations are all clearly above it; None otherwise."""
    steps = sorted(losses)
    if len(steps) <= LATER:
        return None
    lowest = min(steps, key=lambda step: (losses[step], step))
    worse = all(losses[step] > WORSE * losses[lowest] for step in steps[-LATER:])
    return lowest if worse and steps[-LATER] > lowest else None
