"""Planes shrunk by round ratios with libswscale, as Pillow's bicubic filter with antialiasing does it, in a third to a quarter
of the time.

libswscale does not cut off what overshoots between its two passes, repeats the edge where Pillow leaves out what lies
beyond it, and counts positions in 65,536ths of a pixel. So each direction is a call of its own, the outermost pixels are
Pillow's, and so is every size whose ratios are not round. Whether that is enough is tried for each size, with pictures of
nothing but hard edges; where a pixel is off by more than 1 in 255, as when Pillow shrinks a tall picture down before it
shrinks it across, Pillow does it all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from mochi_trainer.video.filters import chain
from mochi_trainer.video.framing import Framing

PARTS = (1, 2, 4)
"""Ratios are whole numbers of these parts. Others have remainders in libswscale or, in rare pixels, a difference of 2."""

MOST = Fraction(9, 2)
"""How many times a picture is shrunk at most, 4K to 480 lines; libswscale leaves out weights that add up to half a level."""

LEAST = 1 << 16
"""Pixels of a result that is worth it."""

TRIED = 400_000
"""Pixels that have to be near Pillow's before a size is trusted."""

REACH = 2
"""Pixels of the result, from its edge on, whose filter reaches over that edge; half of the filter's width."""

SIDES = (1, 3, 5)
"""Of the squares in the planes that it is tried with."""

NEAR = 1
"""Levels by which a pixel may differ from Pillow's."""

HOW = {"flags": "bicubic+bitexact", "param0": "0", "param1": "0.5"}
"""The filter of Catmull and Rom, which is Pillow's `BICUBIC`, with the same numbers whatever the processor."""

Plane = NDArray[Any]
"""(H, W)."""

Planes = Sequence[Plane]
"""Red, green and blue; in a trial one alone."""


class Scaler:
    """Cuts and scales the planes of one clip; it keeps what libswscale prepares for them."""

    def __init__(self) -> None:
        self._size: tuple[int, ...] = ()
        self._input: Any = None
        self._passes: Graph | None = None

    def picture(self, planes: Planes, box: Framing) -> NDArray[Any]:
        """What lies in `box` of three planes of 8 or 16 bits, (H, W, 3): as `box.apply`, but for differences of 1 in 255."""
        if planes[0].dtype != np.uint8 or not is_near(box, *planes[0].shape):
            return np.stack([box.apply(np.ascontiguousarray(plane)) for plane in planes], axis=-1)
        return self.shrunk(planes, box)

    def shrunk(self, planes: Planes, box: Framing) -> NDArray[np.uint8]:
        """What lies in a box with round ratios, of planes of 8 bits, by libswscale and, at the sides, by Pillow."""
        picture = np.empty((box.height, box.width, len(planes)), np.uint8)
        inside = np.s_[round(box.top) : round(box.bottom), round(box.left) : round(box.right)]
        for number, plane in enumerate(planes):
            picture[..., number] = self._passed(plane[inside], box)
        for rows, columns in _sides(box):
            picture[rows.start : rows.stop, columns.start : columns.stop] = _part(planes, box, rows, columns)
        return picture

    def _passed(self, cut: Plane, box: Framing) -> Plane:
        """What lies in the box, scaled; valid until the next call, since what keeps its size passes as it is."""
        height, width = cut.shape
        size = (width, height, box.width, box.height)
        if self._passes is None or self._size != size:
            self._size, self._input = size, _gray(width, height)
            across = {"w": str(box.width), "h": str(height), **HOW}
            down = {"w": str(box.width), "h": str(box.height), **HOW}
            self._passes = chain(self._input, ("scale", across), ("scale", down))
        _pixels(self._input)[:] = cut
        self._passes.vpush(self._input)
        return _pixels(self._passes.vpull())


@lru_cache(maxsize=32)
def is_near(box: Framing, height: int, width: int) -> bool:
    """Whether both scale a plane (height, width) alike, tried with this processor and these versions."""
    if not _is_round(box) or box.width * box.height < LEAST:
        return False
    scaler = Scaler()
    for seed in range(-(-TRIED // (box.width * box.height))):
        for side in SIDES:
            plane = _edges(height, width, side, seed)
            if _furthest(scaler.shrunk([plane], box)[..., 0], box.apply(plane)) > NEAR:
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


def _sides(box: Framing) -> Iterator[tuple[range, range]]:
    """Rows and columns of the four sides, as far as the filter reaches over the edge."""
    width, height = box.width, box.height
    for rows in (range(REACH), range(height - REACH, height)):
        yield rows, range(width)
    for columns in (range(REACH), range(width - REACH, width)):
        yield range(height), columns


def _part(planes: Planes, box: Framing, rows: range, columns: range) -> NDArray[np.uint8]:
    """Rows and columns (h, w, C) of what Pillow makes of a round box: across first, which it would not choose for a narrow part."""
    left, right, before, behind = _span(box.left, (box.right - box.left) / box.width, columns)
    top, bottom, above, below = _span(box.top, (box.bottom - box.top) / box.height, rows)
    cuts = [plane[above:below, before:behind] for plane in planes]
    around = np.stack(cuts, axis=-1) if len(cuts) > 1 else np.ascontiguousarray(cuts[0])
    high = len(around)
    across = Framing(left=left, right=right, top=0, bottom=high, width=len(columns), height=high)
    down = Framing(left=0, right=len(columns), top=top, bottom=bottom, width=len(columns), height=len(rows))
    return down.apply(across.apply(around)).reshape(len(rows), len(columns), len(planes))


def _span(start: float, ratio: float, wanted: range) -> tuple[float, float, int, int]:
    """Where pixels of the result begin and end in that part of the source which the filter needs, and the part."""
    first, last = start + wanted.start * ratio, start + wanted.stop * ratio
    begin, end = max(0, math.floor(first - REACH * ratio)), math.ceil(last + REACH * ratio)
    return first - begin, last - begin, begin, end


def _gray(width: int, height: int) -> Any:
    frame = av.VideoFrame(width, height, "gray")
    frame.pts, frame.time_base = 0, Fraction(1)
    return frame


def _pixels(frame: Any) -> Plane:
    """The numbers (H, W) of a frame of one plane, without a copy."""
    (plane,) = frame.planes
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
