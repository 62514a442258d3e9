"""Whether the loss is far above where it has been, for long: pure."""

from __future__ import annotations

import math
from collections import deque

WINDOW = 50
"""Steps whose mean counts: the loss of one depends on the noise drawn for it."""


class Divergence:
    """Told of each loss in order."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._lowest = math.inf
        self.ratio: float | None = None
        """Mean of the last `WINDOW` finite losses over the lowest such mean so far; None before there are so many."""

    def add(self, loss: float | None) -> None:
        """The loss of the next step; one that is not finite, or None, counts elsewhere."""
        if loss is None or not math.isfinite(loss):
            return
        self._recent.append(loss)
        if len(self._recent) < WINDOW:
            return
        mean = sum(self._recent) / WINDOW
        self._lowest = min(self._lowest, mean)
        self.ratio = mean / self._lowest if self._lowest > 0 else None
