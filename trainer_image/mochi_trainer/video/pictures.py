"""Still pictures for the report: contact sheets, comparisons, thumbnails."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from mochi_trainer.video.framing import Picture
from mochi_trainer.video.reading import Frames

GAP = 4
"""Pixels between pictures."""


def contact_sheet(frames: Frames, columns: int, *, rows: int = 2) -> bytes:
    """PNG of `columns` x `rows` frames spread evenly over (T, H, W, 3); fewer when T is smaller."""
    count = min(len(frames), columns * rows)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    height, width = frames.shape[1:3]
    lines = -(-count // columns)
    sheet = np.full((lines * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for index, picture in enumerate(chosen):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return png(sheet)


def side_by_side(original: Frames, copy: Frames, *, columns: int = 4) -> bytes:
    """PNG with frames of (T, H, W, 3) in the upper row and the same frames of its copy in the lower one."""
    chosen = np.linspace(0, len(original) - 1, min(columns, len(original))).round().astype(int)
    return contact_sheet(np.concatenate([original[chosen], copy[chosen]]), len(chosen))


def strip(pictures: Sequence[Picture] | Frames, count: int, *, width: int) -> bytes:
    """JPEG of at most `width` pixels' width with `count` of some pictures (H, W, 3) side by side."""
    chosen = np.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().astype(int)
    return joined([for_strip(pictures[number], len(chosen), width=width) for number in chosen], width=width)


def for_strip(picture: Picture, count: int, *, width: int) -> Picture:
    """What a strip of `count` such pictures needs of one: smaller, where that gives the same strip.

    Pillow's thumbnails are made of the means of whole squares of pixels first, where they leave more than twice as many
    pixels as are wanted.
    """
    height, across = picture.shape[:2]
    side = max(1, int(across * count / width / 2))
    if height % side or across % side:
        return picture
    return np.asarray(Image.fromarray(picture).reduce(side))


def joined(pictures: Sequence[Picture], *, width: int) -> bytes:
    """The strip of pictures that `for_strip` gave."""
    return jpeg(np.concatenate(pictures, axis=1), width=width)


def png(picture: Picture) -> bytes:
    """A picture (H, W, 3) as PNG; to look for the smallest would take 2 to 7 times as long for 1 to 7 % of the bytes."""
    return _file(Image.fromarray(picture), "PNG")


def jpeg(picture: Picture, *, width: int) -> bytes:
    """A picture (H, W, 3) as a JPEG of at most `width` pixels' width."""
    image = Image.fromarray(picture)
    image.thumbnail((width, width))
    return _file(image, "JPEG", quality=85, optimize=True)


def smaller(data: bytes, *, width: int) -> bytes:
    """Any picture file as a JPEG of at most `width` pixels' width; raise ValueError when it is no picture."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return jpeg(np.asarray(image.convert("RGB")), width=width)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"not a picture: {error}") from error


def _file(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
