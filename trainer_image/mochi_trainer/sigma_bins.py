"""The loss by share of noise: which of a step's clips belong where, pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

BINS = 4
"""Equal parts of the noise levels from 0 to 1; their middles are the levels at which losses are evaluated."""


def by_sigma(losses: Sequence[float], sigmas: Iterable[float]) -> tuple[float | None, ...]:
    """The mean loss of the clips in each bin; None where there is none with a finite loss."""
    found: list[list[float]] = [[] for _ in range(BINS)]
    for loss, sigma in zip(losses, sigmas, strict=True):
        if math.isfinite(loss):
            found[min(int(sigma * BINS), BINS - 1)].append(loss)
    return tuple(sum(each) / len(each) if each else None for each in found)


def names() -> tuple[str, ...]:
    """The bins as labels: `0-0.25` and so on."""
    return tuple(f"{low / BINS:g}-{(low + 1) / BINS:g}" for low in range(BINS))
