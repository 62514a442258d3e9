"""How opaque the pixels of a still image are: an alpha channel, a palette's, or the one colour that a PNG makes transparent.

Pillow brings 16 bits to 8 before it looks, and compares the transparent colour of a PNG with pixels that were scaled, so
these are read here (PNG, third edition, 11.3.2.1): the colour as it is written, with the bits that its depth has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6
"""Colour types of PNG."""

FULL = 0xFFFF
Opacity = NDArray[Any]
"""(H, W) of 16 bits, 0 to `FULL`."""


class Form(NamedTuple):
    """How a PNG keeps its pixels; of another format all is 0."""

    depth: int = 0
    colour: int = 0


def form_of(path: Path) -> Form:
    """What the header of a file says, which is there when an image could be opened."""
    with path.open("rb") as file:
        head = file.read(26)
    return Form(head[24], head[25]) if head[1:4] == b"PNG" and len(head) == 26 else Form()


def opacity(path: Path, image: Image.Image) -> Opacity | None:
    """Of the pixels of a loaded image, not yet turned; None where all of them are opaque."""
    if not image.has_transparency_data:
        return None
    form = form_of(path)
    if form.depth == 16 and form.colour in {GREY_ALPHA, COLOUR_ALPHA}:
        return _deep(path, image, form)[..., -1]
    if form.depth and form.colour in {GREY, COLOUR}:
        return np.where(_transparent(path, image, form), np.uint16(0), np.uint16(FULL))
    return np.asarray(image.convert("RGBA").getchannel("A")).astype(np.uint16) * np.uint16(257)


def _transparent(path: Path, image: Image.Image, form: Form) -> NDArray[np.bool_]:
    """Where a PNG has the colour that stands for nothing."""
    top = (1 << form.depth) - 1
    colour = np.atleast_1d(image.info["transparency"]).astype(np.int64) & top
    pixels: NDArray[Any] = np.asarray(image)
    if form.depth == 1:  # 0 or 255 in what Pillow tells of it, too
        colour = colour & 1
    elif form.depth < 8:
        colour = colour * (255 // top)
    elif form.depth == 16 and form.colour == COLOUR:
        pixels = _deep(path, image, form)
    found = np.ones(pixels.shape[:2], bool)
    for number, value in enumerate(colour):
        found &= np.atleast_3d(pixels)[..., number] == value
    return found


def _deep(path: Path, image: Image.Image, form: Form) -> NDArray[Any]:
    """All 16 bits (H, W, C): Pillow's own reading has the upper ones, so the lower ones are read too."""
    if form.colour == GREY_ALPHA:
        return np.ascontiguousarray(_read_as(path, "RGBA")).view(
            ">u2"
        )  # four bytes of each pixel as they are
    mode = "RGB" if form.colour == COLOUR else "RGBA"
    return np.stack([_read_as(path, f"{mode};16L"), np.asarray(image)], axis=-1).view("<u2")[..., 0]


def _read_as(path: Path, raw: str) -> NDArray[Any]:
    """The bytes of a PNG, taken for pixels of another form with as many bits."""
    with Image.open(path, formats=("PNG",)) as image:
        image.tile = [tile._replace(args=raw) for tile in image.tile]
        image.load()
        return np.asarray(image)


def on_black(picture: NDArray[np.uint8], opaque: Opacity) -> NDArray[np.uint8]:
    """(H, W, 3): each number times its opacity, rounded once."""
    shown = np.empty_like(picture)
    for number in range(picture.shape[-1]):
        product = picture[..., number].astype(np.uint32) * opaque
        shown[..., number] = (product + FULL // 2) // FULL
    return shown
