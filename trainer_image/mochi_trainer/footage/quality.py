"""What is worth a look in the pictures of a clip: nearly black, nothing moves, black bars. Pure.

Shapes: T, H, W, 3, RGB uint8; levels are of 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mochi_api.clips import ClipWarning
from mochi_trainer.footage.bars import LEAST, Box, picture_box
from mochi_trainer.footage.likeness import Floats, Frames, luma_in_parts

LOOKED_AT = 12
"""Frames of a clip that are looked at, evenly spread: one in 3 of 37."""

CELLS = 120
"""Cells along the shorter side, 4 x 4 pixels at 480 lines: their means have a quarter of the grain of pixels."""

STEPS = 21
"""Of a level, in which luma is added up: 65,535 are just enough for `LOOKED_AT` frames of white."""

ROWS_OF_CELLS = 8
"""That are looked at together."""

LIT = 32.0
"""Level from which on something is to be seen: an eighth of the way from black to white, 0.5 % of its light."""

LIT_SHARE = 0.005
"""Part of the picture that must be lit in half of the frames: a title or the lights of a street at night have more."""

MOVED = 6.0
"""Levels by which a cell must change over the clip; what encoders do to a still picture stays below."""

GRAIN_FACTOR, MOST_GRAIN = 5.0, 6.0
"""Grain is measured from frame to frame; a cell moves when it changes by this factor more. Above the second number of
levels it is no grain: water and leaves change all cells at once."""

MOVED_SHARE = 0.001
"""Part of the cells that must change at some time: 25 at 480 lines, a bird that crosses the picture."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning about a clip, and a sentence with measure and limit."""

    kind: ClipWarning
    message: str


def picture_warnings(frames: Frames, *, scale: int = 1) -> list[Warned]:
    """Warnings about a clip (T, H, W, 3) with T >= 1, in the order of `ClipWarning`.

    `scale` is how many times larger the clip is than these frames, for the sizes in words.
    """
    look = Look(len(frames))
    for number, picture in enumerate(frames):
        look.at(number, picture)
    return look.warnings(scale=scale)


class Look:
    """The same, of frames that pass one by one: of each its cells are kept, and the mean of all."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._chosen = set(_chosen(count))
        self._cells: list[Floats] = []
        self._following: list[Floats] = []
        self._total = np.zeros((), np.uint16)

    def at(self, number: int, picture: Frames) -> None:
        """Frame `number` (H, W, 3) of `count`, from 0 on, each once and in order."""
        chosen, follows = number in self._chosen, number - 1 in self._chosen
        if not (chosen or follows):
            return
        if chosen and not self._cells:
            self._total = np.zeros(picture.shape[:2], np.uint16)
        side = _side(picture)
        means = []
        for part, grey in luma_in_parts(picture, rows=side * ROWS_OF_CELLS):
            means.append(_cells(grey, side))
            if chosen:
                self._total[part] += (grey * np.float32(STEPS) + np.float32(0.5)).astype(np.uint16)
        cells = np.concatenate(means)
        if chosen:
            self._cells.append(cells)
        if follows:
            self._following.append(cells)

    def warnings(self, *, scale: int = 1) -> list[Warned]:
        """When all have passed."""
        cells = np.stack(self._cells)
        found = [dark(cells), static(cells, np.stack(self._following)) if self._following else None]
        if found[0] is None:
            mean = (self._total / (STEPS * len(cells))).astype(np.float32)
            box = picture_box(mean)
            scaled = Box(*(scale * side for side in (box.left, box.top, box.right, box.bottom)))
            found.append(black_bars(scaled, scale * mean.shape[1], scale * mean.shape[0]))
        return [warning for warning in found if warning is not None]


def _chosen(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, LOOKED_AT).round().astype(int).tolist()))


def dark(cells: Floats) -> Warned | None:
    """Whether hardly anything is lit, by cells (T, Y, X) of luma. A black start does not count: half of the frames do."""
    share = float(np.median((cells > LIT).mean((1, 2))))
    if share >= LIT_SHARE:
        return None
    return Warned(
        ClipWarning.DARK,
        f"nearly black: {share:.2%} of the picture is brighter than level {LIT:.0f} of 255 in half of the frames, "
        f"at least {LIT_SHARE:.1%} is usual even at night",
    )


def static(cells: Floats, following: Floats) -> Warned | None:
    """Whether nothing but grain changes: cells (T, Y, X) of luma, and those of the frame after each (all but the last)."""
    change = np.abs(following - cells[: len(following)])
    grain = min(MOST_GRAIN, 1.4826 * float(np.median(change)) / np.sqrt(2))
    limit = max(MOVED, GRAIN_FACTOR * grain)
    span = np.abs(cells - np.median(cells, axis=0)).max(0)
    share = float((span > limit).mean())
    if share >= MOVED_SHARE:
        return None
    return Warned(
        ClipWarning.STATIC,
        f"nothing moves: {share:.2%} of the picture changes by more than {limit:.0f} of 255 levels over the clip, "
        f"at least {MOVED_SHARE:.1%} is usual",
    )


def black_bars(box: Box, width: int, height: int) -> Warned | None:
    """Whether the picture `box` leaves bars of a frame of `width` x `height`."""
    upright, across = box.bottom - box.top < height, box.right - box.left < width
    if not (upright or across):
        return None
    sides = [
        name
        for name, size in (
            ("above", box.top), ("below", height - box.bottom), ("left", box.left), ("right", width - box.right),
        )
        if size
    ]  # fmt: skip
    words = f"{', '.join(sides[:-1])} and {sides[-1]}" if len(sides) > 1 else sides[0]
    size = f"{box.right - box.left}x{box.bottom - box.top}"
    return Warned(
        ClipWarning.BLACK_BARS,
        f"black bars ({words}) all the time: the picture is {size} at ({box.left}, {box.top}) of {width}x{height}, "
        f"bars count from {LEAST:.0%} of a side on; "
        f"ffmpeg -vf crop={size.replace('x', ':')}:{box.left}:{box.top} takes them off",
    )


def _side(picture: Frames) -> int:
    """Of a cell, in pixels."""
    height, width = picture.shape[:2]
    return max(1, min(int(height), int(width)) // CELLS)


def _cells(picture: Floats, side: int) -> Floats:
    """(H, W) to the means of cells, (Y, X); what is over at the right and bottom is left out."""
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    whole = picture[: rows * side, : columns * side]
    down = whole.reshape(rows, side, columns * side).sum(1)
    return np.asarray(down.reshape(rows, columns, side).mean(2) / np.float32(side), np.float32)
