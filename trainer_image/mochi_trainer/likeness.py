"""How alike two videos are: PSNR of all channels, SSIM of the luma. One frame is in work at a time."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Frames: TypeAlias = npt.NDArray[np.uint8]
"""(T, H, W, 3), RGB."""

Plane: TypeAlias = npt.NDArray[np.float64]
"""(H, W)."""

MOST_DB = 99.0
"""PSNR of equal videos, which would have no bound."""

RADIUS, SIGMA = 5, 1.5
"""The window of SSIM: 11 x 11 Gaussian weights."""

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LUMA = np.array([0.2126, 0.7152, 0.0722])
"""BT.709, which trimmed clips are in."""


def psnr(original: Frames, copy: Frames) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; at most `MOST_DB`."""
    errors = [float(np.mean((a.astype(np.float32) - b) ** 2)) for a, b in zip(original, copy, strict=True)]
    error = sum(errors) / len(errors)
    return MOST_DB if error == 0 else min(MOST_DB, 10 * math.log10(255**2 / error))


def ssim(original: Frames, copy: Frames) -> float:
    """Mean structural similarity of the luma, -1 to 1, over all frames and all places where the window fits whole.

    As in Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity"
    (2004), section III: 11 x 11 Gaussian window with sigma 1.5, K1 0.01, K2 0.03, without making the picture smaller
    first. Raises ValueError when a picture is smaller than the window.
    """
    least = 2 * RADIUS + 1
    if min(original.shape[1:3]) < least:
        raise ValueError(
            f"SSIM needs pictures of at least {least}x{least}, got {original.shape[2]}x{original.shape[1]}"
        )
    scores = [_similarity(a @ LUMA, b @ LUMA) for a, b in zip(original, copy, strict=True)]
    return sum(scores) / len(scores)


def _similarity(x: Plane, y: Plane) -> float:
    """The sum of both variances takes one mean in place of two, the formula asks for no more."""
    mean_x, mean_y = _windowed(x), _windowed(y)
    product = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    variances = _windowed(x**2 + y**2) - squares
    covariance = _windowed(x * y) - product
    numerator = (2 * product + C1) * (2 * covariance + C2)
    return float(np.mean(numerator / ((squares + C1) * (variances + C2))))


def _windowed(plane: Plane) -> Plane:
    """The weighted mean around each place, rows and columns after one another: the window is a product of both."""
    return _along_rows(_along_rows(plane).T).T


def _along_rows(plane: Plane) -> Plane:
    """(H, W) to (H - 2 RADIUS, W); the two neighbours at each distance have one weight."""
    weights = np.exp(-0.5 * (np.arange(RADIUS + 1) / SIGMA) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    height = plane.shape[0] - 2 * RADIUS
    total: Plane = weights[0] * plane[RADIUS : RADIUS + height]
    for distance in range(1, RADIUS + 1):
        before, after = RADIUS - distance, RADIUS + distance
        total += weights[distance] * (plane[before : before + height] + plane[after : after + height])
    return total
