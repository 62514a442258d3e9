"""Where the picture is inside a frame with black bars: letterbox, pillarbox or both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mochi_trainer.footage.likeness import Floats, Frames, luma, unlikeness

BLACK = 20.0
"""Level of 255 up to which a pixel, on average over the clip, is black: noise, dither, and level 16 of a file that says
full range."""

ALL = 0.97
"""Part of a row that is black in a bar."""

ENDED = 0.6
"""Part of a row that may still be black just inside of a bar: pictures may be dark, a bar ends all along its edge."""

WITHIN = 4
"""Rows in which it must end; scaling blurs its edge."""

CLEAN, CLEAN_ENDED = 0.995, 0.1
"""As `ALL` and `ENDED` for a bar on one side alone, which might be a black floor or sky."""

TEXT = 0.6
"""Part of a row that is black where a subtitle lies in the bar."""

LEAST = 0.02
"""Part of the side that a bar takes at least: codecs leave a few black lines at the edge of many files."""

MOST = 0.75
"""Part of the side that bars take at most; what is left would be a line of text on black."""


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture, in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def picture_box(mean: Floats) -> Box:
    """The part without bars of a clip's mean luma over time (H, W); the whole where there are none."""
    black = mean <= BLACK
    height, width = black.shape
    left, top, right, bottom = 0, 0, width, height
    for _ in range(2):  # with bars all around, one pair is only seen when the other is gone
        above, below = _bars(black[:, left:right].mean(1))
        top, bottom = above, height - below
        before, behind = _bars(black[top:bottom].mean(0))
        left, right = before, width - behind
    return Box(left, top, right, bottom)


def without_bars(frames: Frames, dark: Floats) -> Frames:
    """Small pictures (T, H, W, 3) without the bars of `dark` (H, W), at their size; the same where it has none."""
    height, width = dark.shape
    box = picture_box(dark)
    if box == Box(0, 0, width, height):
        return frames
    inside = np.ascontiguousarray(frames[:, box.top : box.bottom, box.left : box.right])
    scaled = (
        Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR) for picture in inside
    )
    return np.stack([np.asarray(picture) for picture in scaled])


def unlike_inside(before: Frames, after: Frames) -> float:
    """`unlikeness` of two pictures (H, W, 3) without the bars that both have, which would make any two alike."""
    both = np.stack([before, after])
    return unlikeness(*without_bars(both, luma(both).max(0)))


def _bars(share: Floats) -> tuple[int, int]:
    """Rows of the bars at both ends, by the part of each row that is black; 0, 0 where there are none."""
    least = max(1, round(LEAST * len(share)))
    first, last = _bar(share, ALL, ENDED), _bar(share[::-1], ALL, ENDED)
    if first and not last and _continued(share[::-1], first):
        last = first
    elif last and not first and _continued(share, last):
        first = last
    if min(first, last) < least:
        first, last = _bar(share, CLEAN, CLEAN_ENDED), _bar(share[::-1], CLEAN, CLEAN_ENDED)
    first, last = (size if size >= least else 0 for size in (first, last))
    return (first, last) if first + last <= MOST * len(share) else (0, 0)


def _bar(share: Floats, black: float, ended: float) -> int:
    """Rows of a bar that begins at row 0 and ends sharply; 0 for none."""
    size = next((row for row, part in enumerate(share) if part < black), len(share))
    return size if _ends(share, size, ended) else 0


def _continued(share: Floats, size: int) -> bool:
    """Whether a bar of `size` rows, as there is on the other side, is here too but for a subtitle in it."""
    return bool((share[:size] >= TEXT).all() and share[size - 1] >= ALL and _ends(share, size, ENDED))


def _ends(share: Floats, size: int, ended: float) -> bool:
    inside = share[size : size + WITHIN]
    return bool(len(inside) and inside.min() <= ended)
