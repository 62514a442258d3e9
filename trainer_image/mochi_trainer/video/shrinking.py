"""Planes shrunk by round ratios in two passes of libswscale, a band of rows at a time; the outermost pixels by Pillow.

The planes are never there as a whole: of each band what the first pass leaves is kept, and what the sides need of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from mochi_trainer.video.filters import chain
from mochi_trainer.video.framing import Framing

ROWS = 60
"""Of a band, at most."""

PART = 64
"""Rows of a result that are made at once, of whole groups of `AROUND`."""

AROUND = 4
"""Rows of a result that are made with those above and below; as many of them are whole rows of the source."""

REACH = 2
"""Pixels of the result, from its edge on, whose filter reaches over that edge; half of the filter's width."""

HOW = {"flags": "bicubic+bitexact", "param0": "0", "param1": "0.5"}
"""The filter of Catmull and Rom, which is Pillow's `BICUBIC`, with the same numbers whatever the processor."""

Plane = NDArray[Any]
"""(H, W)."""

Planes = Sequence[Plane]
"""Red, green and blue; in a trial one alone."""

Band = tuple[int, Planes]
"""The number of the first row, and planes (h, W) of at most `ROWS` rows from there on."""


def in_bands(planes: Planes) -> Iterator[Band]:
    """Planes that are there as a whole."""
    for top in range(0, len(planes[0]), ROWS):
        yield top, [plane[top : top + ROWS] for plane in planes]


class Shrinker:
    """Scales what lies in a box of `depth` planes of 8 bits; it keeps what libswscale prepares for that."""

    def __init__(self, box: Framing, depth: int) -> None:
        self.box, self._depth = box, depth
        self._rows = range(round(box.top), round(box.bottom))
        self._columns = slice(round(box.left), round(box.right))
        wide = self._columns.stop - self._columns.start
        self._across = _Pass((wide, depth * ROWS), (box.width, depth * ROWS))
        self._down = _Down(depth * box.width, len(self._rows), box.height)

    def picture(self, bands: Iterable[Band]) -> NDArray[np.uint8]:
        """(H, W, depth) of planes whose bands come one after the other, from the first row to the last."""
        sides = list(_sides(self.box))
        picture = np.empty((self.box.height, self.box.width, self._depth), np.uint8)
        self._down.begin()
        for top, planes in bands:
            for side in sides:
                side.take(top, planes)
            for place, rows in self._down.take(self._narrow(top, planes)):
                for number, plane in enumerate(np.split(rows, self._depth, axis=1)):
                    picture[place, :, number] = plane
        for side in sides:
            picture[side.place] = side.scaled()
        return picture

    def _narrow(self, top: int, planes: Planes) -> Plane:
        """Of the rows of a band that lie in the box what the first pass makes, (h, depth x W): the planes side by side."""
        first, end = max(top, self._rows.start), min(top + len(planes[0]), self._rows.stop)
        high, width = max(0, end - first), self.box.width
        if not high:
            return np.empty((0, self._depth * width), np.uint8)
        for number, plane in enumerate(planes):  # one below the other, so that one call does for all
            self._across.source[number * high : (number + 1) * high] = plane[
                first - top : end - top, self._columns
            ]
        made = self._across.passed()
        return np.concatenate(
            [made[number * high : (number + 1) * high] for number in range(self._depth)], axis=1
        )


class _Down:
    """The second pass, some rows of the result at a time, from rows (h, W) that come in their order.

    Each part is scaled with `AROUND` rows more of the result above and below it, beyond what the filter reaches; all begin
    at whole pixels of the source, so that it is the same as in one.
    """

    def __init__(self, width: int, rows: int, wanted: int) -> None:
        parted = wanted % AROUND == 0 and wanted > PART + 2 * AROUND
        self._wanted = wanted
        self._part = PART if parted else wanted
        self._height = PART + 2 * AROUND if parted else wanted
        self._ratio = Fraction(rows, wanted)
        self._pass = _Pass((width, round(self._height * self._ratio)), (width, self._height))
        self.begin()

    def begin(self) -> None:
        """Another picture."""
        self._done = self._there = 0

    def take(self, rows: Plane) -> Iterator[tuple[slice, Plane]]:
        """The next rows of the source; gives rows of the result, and which they are, as soon as all they need has come."""
        source = self._pass.source
        while self._done < self._wanted:
            first = min(max(0, self._done - AROUND), self._wanted - self._height)
            begin = int(first * self._ratio)
            used = min(len(rows), begin + len(source) - self._there)
            at = self._there - begin
            source[at : at + used] = rows[:used]
            rows = rows[used:]
            self._there += used
            if self._there < begin + len(source):
                return
            end = min(self._done + self._part, self._wanted)
            yield slice(self._done, end), self._pass.passed()[self._done - first : end - first]
            self._done = end
            following = int(min(max(0, end - AROUND), self._wanted - self._height) * self._ratio)
            source[: self._there - following] = source[following - begin :].copy()


class _Side:
    """What Pillow makes of some rows and columns of a box, of what their filter needs, gathered from bands."""

    def __init__(self, box: Framing, rows: range, columns: range) -> None:
        self.place = np.s_[rows.start : rows.stop, columns.start : columns.stop]
        self._size = (len(rows), len(columns))
        self._across = _span(box.left, (box.right - box.left) / box.width, columns)
        self._down = _span(box.top, (box.bottom - box.top) / box.height, rows)
        self._parts: list[NDArray[Any]] = []
        self._next = self._down.begin

    def take(self, top: int, planes: Planes) -> None:
        """What it needs of a band, but for rows that it has."""
        end = min(self._down.end, top + len(planes[0]))
        if self._next < end:
            place = np.s_[self._next - top : end - top, self._across.begin : self._across.end]
            self._parts.append(np.stack([plane[place] for plane in planes], axis=-1))
            self._next = end

    def scaled(self) -> NDArray[np.uint8]:
        """(h, w, C): across first, which Pillow would not choose for a narrow part."""
        around = np.concatenate(self._parts)
        high, _, depth = around.shape
        rows, columns = self._size
        narrow = Framing(
            left=self._across.first, right=self._across.last, top=0, bottom=high, width=columns, height=high
        )
        low = Framing(
            left=0, right=columns, top=self._down.first, bottom=self._down.last, width=columns, height=rows
        )
        if depth == 1:
            return low.apply(narrow.apply(around[..., 0]))[..., None]
        return low.apply(narrow.apply(around))


def _sides(box: Framing) -> Iterator[_Side]:
    """The four sides, as far as the filter reaches over the edge."""
    width, height = box.width, box.height
    for rows in (range(REACH), range(height - REACH, height)):
        yield _Side(box, rows, range(width))
    for columns in (range(REACH), range(width - REACH, width)):
        yield _Side(box, range(height), columns)


class _Span(NamedTuple):
    """A part of the source, and where in it pixels of the result begin and end."""

    first: float
    last: float
    begin: int
    end: int


def _span(start: float, ratio: float, wanted: range) -> _Span:
    """What the filter needs for some pixels of a result that begins at `start` of the source."""
    first, last = start + wanted.start * ratio, start + wanted.stop * ratio
    begin = max(0, math.floor(first - REACH * ratio))
    return _Span(first - begin, last - begin, begin, math.ceil(last + REACH * ratio))


class _Pass:
    """libswscale from frames of one plane and one size to those of another."""

    def __init__(self, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        """(width, height)."""
        self._frame = av.VideoFrame(*size, "gray")
        self._frame.pts, self._frame.time_base = 0, Fraction(1)
        width, height = wanted
        self._graph = chain(self._frame, ("scale", {"w": str(width), "h": str(height), **HOW}))

    @property
    def source(self) -> Plane:
        """What is scaled next, to be written to."""
        return _pixels(self._frame)

    def passed(self) -> Plane:
        """It scaled; valid until the next call, since what keeps its size passes as it is."""
        self._graph.vpush(self._frame)
        return _pixels(self._graph.vpull())


def _pixels(frame: Any) -> Plane:
    """The numbers (H, W) of a frame of one plane, without a copy."""
    (plane,) = frame.planes
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
