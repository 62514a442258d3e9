"""The loss by share of noise: which of a step's clips belong where, pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

BINS = 4
"""Equal parts of the noise levels from 0 to 1; losses are evaluated at their middles, or at several levels in each."""


def by_sigma(losses: Sequence[float], sigmas: Iterable[float]) -> tuple[float | None, ...]:
    """The mean loss of the clips in each bin; None where there is none with a finite loss."""
    found: list[list[float]] = [[] for _ in range(BINS)]
    for loss, sigma in zip(losses, sigmas, strict=True):
        if math.isfinite(loss):
            found[bin_of(sigma)].append(loss)
    return tuple(sum(each) / len(each) if each else None for each in found)


def bin_of(sigma: float) -> int:
    """The bin that a noise level is in."""
    return min(int(sigma * BINS), BINS - 1)


def names() -> tuple[str, ...]:
    """The bins as labels: `0-0.25` and so on."""
    return tuple(f"{low / BINS:g}-{(low + 1) / BINS:g}" for low in range(BINS))
