"""How unlike two small pictures are when what merely moved, brightened or came in at the edge is left out of account.

Shapes: H, W = `HEIGHT`, `WIDTH`; pictures are (H, W, 3) RGB uint8, squeezed to that size whatever their aspect.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

HEIGHT, WIDTH = 36, 64
BLOCK = (12, 16)
"""Rows and columns of a block: 3 x 4 blocks a picture. Smaller ones find a match by chance in any picture."""

REACH = (6, 10)
"""Rows and columns that a block is looked for around its place: a sixth of the picture from one frame to the next."""

KEPT = 8
"""Of 12 blocks those that match best count: a fast pan or a passing van takes away the others."""

GRAIN = 16.0
"""Variance, in levels squared, below which a block has no structure of its own, only noise: then its colour decides."""

COLOUR_STEP = 48.0
"""Levels of 255 by which the mean colour of two flat blocks differs when they are certainly not the same."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]


ROWS = 32
"""Of a picture that are numbers of floating point at once: they take four times the memory of the picture."""


def luma(frames: Frames) -> Floats:
    """(..., W, 3) RGB to BT.601 luma (..., W), 0 to 255."""
    rows = frames.reshape(-1, *frames.shape[-2:])
    grey = np.empty(rows.shape[:-1], np.float32)
    for part, levels in luma_in_parts(rows):
        grey[part] = levels
    return grey.reshape(frames.shape[:-1])


def luma_in_parts(picture: Frames, *, rows: int = ROWS) -> Iterator[tuple[slice, Floats]]:
    """The same of a picture (H, W, 3), some rows at a time, and which: for what needs no more at once."""
    for first in range(0, len(picture), rows):
        part = slice(first, min(first + rows, len(picture)))
        yield part, picture[part] @ LUMA


def unlikeness(before: Frames, after: Frames) -> float:
    """0 for the same picture, moved by up to `REACH` or dimmed; above 0.25 for pictures of different things."""
    padded = np.pad(after.astype(np.float32), ((REACH[0],) * 2, (REACH[1],) * 2, (0, 0)), mode="edge")
    colours = _box_means(padded)
    grey = luma(padded.astype(np.uint8))
    windows = sliding_window_view(grey, BLOCK)
    means = _box_means(grey[..., None])[..., 0]
    variances = np.maximum(_box_means((grey**2)[..., None])[..., 0] - means**2, 0)
    own = luma(before)
    scores = []
    for top in range(0, HEIGHT, BLOCK[0]):
        for left in range(0, WIDTH, BLOCK[1]):
            near = np.s_[top : top + 2 * REACH[0] + 1, left : left + 2 * REACH[1] + 1]
            place = np.s_[top : top + BLOCK[0], left : left + BLOCK[1]]
            colour = before[place].reshape(-1, 3).mean(0)
            scores.append(_best_match(own[place], windows[near], variances[near], colours[near] - colour))
    return float(1 - np.mean(np.sort(scores)[-KEPT:]))


def _best_match(block: Floats, windows: Floats, variances: Floats, colours: Floats) -> float:
    """Largest correlation of `block` with the windows (Y, X, h, w) around it; where both are flat, of their colours."""
    covariance = np.tensordot(windows, block - block.mean(), axes=2) / block.size
    spread = np.sqrt(variances * block.var())
    flatness = GRAIN / (spread + GRAIN)
    mismatch = np.minimum(1, np.abs(colours).max(-1) / COLOUR_STEP)
    return float(((covariance + GRAIN) / (spread + GRAIN) * (1 - flatness * mismatch)).max())


def _box_means(picture: Floats) -> Floats:
    """Mean of each window of the size of a block: (H, W, C) to (H - h + 1, W - w + 1, C)."""
    total = np.pad(picture, ((1, 0), (1, 0), (0, 0))).astype(np.float64).cumsum(0).cumsum(1)
    h, w = BLOCK
    sums = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    return np.asarray(sums / (h * w), np.float32)
