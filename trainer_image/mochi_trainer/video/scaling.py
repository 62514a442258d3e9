"""Planes shrunk by round ratios with libswscale, as Pillow's bicubic filter with antialiasing does it, in a third to a quarter
of the time.

libswscale does not cut off what overshoots between its two passes, repeats the edge where Pillow leaves out what lies
beyond it, and counts positions in 65,536ths of a pixel. So each direction is a call of its own, the outermost pixels are
Pillow's, and so is every size whose ratios are not round. Whether that is enough is tried for each size, with pictures of
nothing but hard edges; where a pixel is off by more than 1 in 255, as when Pillow shrinks a tall picture down before it
shrinks it across, Pillow does it all.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mochi_trainer.video.framing import Framing
from mochi_trainer.video.shrinking import Band, Plane, Planes, Shrinker, in_bands

PARTS = (1, 2, 4)
"""Ratios are whole numbers of these parts. Others have remainders in libswscale or, in rare pixels, a difference of 2."""

MOST = Fraction(9, 2)
"""How many times a picture is shrunk at most, 4K to 480 lines; libswscale leaves out weights that add up to half a level."""

LEAST = 1 << 16
"""Pixels of a result that is worth it."""

TRIED = 400_000
"""Pixels that have to be near Pillow's before a size is trusted."""

SIDES = (1, 3, 5)
"""Of the squares in the planes that it is tried with."""

NEAR = 1
"""Levels by which a pixel may differ from Pillow's."""


class Scaler:
    """Cuts and scales the planes of one clip; it keeps what libswscale prepares for them."""

    def __init__(self) -> None:
        self._shrinker: Shrinker | None = None

    def picture(self, planes: Planes, box: Framing) -> NDArray[Any]:
        """What lies in `box` of three planes of 8 or 16 bits, (H, W, 3): as `box.apply`, but for differences of 1 in 255."""
        if planes[0].dtype != np.uint8 or not is_near(box, *planes[0].shape):
            return np.stack([box.apply(np.ascontiguousarray(plane)) for plane in planes], axis=-1)
        return self.shrunk(in_bands(planes), box)

    def shrunk(self, bands: Iterable[Band], box: Framing) -> NDArray[np.uint8]:
        """What lies in a box that `is_near`, of three planes of 8 bits in bands from above to below."""
        if self._shrinker is None or self._shrinker.box != box:
            self._shrinker = Shrinker(box, 3)
        return self._shrinker.picture(bands)


@lru_cache(maxsize=32)
def is_near(box: Framing, height: int, width: int) -> bool:
    """Whether both scale a plane (height, width) alike, tried with this processor and these versions."""
    if not _is_round(box) or box.width * box.height < LEAST:
        return False
    shrinker = Shrinker(box, 1)
    for seed in range(-(-TRIED // (box.width * box.height))):
        for side in SIDES:
            plane = _edges(height, width, side, seed)
            if _furthest(shrinker.picture(in_bands([plane]))[..., 0], box.apply(plane)) > NEAR:
                return False
    return True


def _furthest(one: Plane, other: Plane) -> int:
    """By how many levels two planes of 8 bits differ at most."""
    return int((np.maximum(one, other) - np.minimum(one, other)).max())


def _edges(height: int, width: int, side: int, seed: int) -> Plane:
    """A plane of squares, black and white by chance."""
    rows, columns = -(-height // side), -(-width // side)
    chance = random.Random(seed)  # NumPy's would be 4 MB more for each reader
    plane = np.empty((height, width), np.uint8)
    for row in range(rows):
        squares = (np.frombuffer(chance.randbytes(columns), np.uint8) >> 7) * np.uint8(255)
        plane[row * side : (row + 1) * side] = squares.repeat(side)[:width]
    return plane


def _is_round(box: Framing) -> bool:
    """Whether a box has whole pixels and is shrunk by round ratios."""
    edges = (box.left, box.top, box.right, box.bottom)
    if any(abs(edge - round(edge)) > 1e-6 for edge in edges):
        return False
    across = Fraction(round(box.right) - round(box.left), box.width)
    down = Fraction(round(box.bottom) - round(box.top), box.height)
    return all(1 <= ratio <= MOST and ratio.denominator in PARTS for ratio in (across, down))
