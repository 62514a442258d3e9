"""Where to cut a picture so that it fills the size of training: cover, keep the aspect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Framing:
    """A box of the source, in its pixels, and the size it is scaled to."""

    left: float
    top: float
    right: float
    bottom: float
    width: int
    height: int

    @property
    def enlargement(self) -> float:
        """How much larger a source pixel becomes; above 1 the picture has less detail than its size suggests."""
        return max(self.width / (self.right - self.left), self.height / (self.bottom - self.top))

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Cut and scale with an antialiasing filter: (H, W, 3) of 8 bits, or one plane (H, W) of 8 or 16 bits."""
        box = (self.left, self.top, self.right, self.bottom)
        scaled = _image(picture).resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(scaled)


def _image(picture: NDArray[Any]) -> Image.Image:
    """The picture without a copy where its rows follow each other."""
    if picture.dtype == np.uint16:
        height, width = picture.shape
        return Image.frombuffer("I;16", (width, height), picture.tobytes(), "raw", "I;16", 0, 1)
    return Image.fromarray(picture)


def framing(
    source_width: int,
    source_height: int,
    width: int,
    height: int,
    *,
    pixel_aspect: float = 1.0,
    crop_x: float = 0.5,
    crop_y: float = 0.5,
) -> Framing:
    """The largest box with the aspect of `width` x `height`.

    `pixel_aspect` is the width of a source pixel over its height, 1 but for anamorphic video. `crop_x` and `crop_y`
    say where the box lies in what is left over: 0 left or top, 0.5 in the centre, 1 right or bottom.
    """
    aspect = width / height / pixel_aspect
    box_width = min(float(source_width), source_height * aspect)
    box_height = min(float(source_height), source_width / aspect)
    left, top = (source_width - box_width) * crop_x, (source_height - box_height) * crop_y
    return Framing(
        left=left, top=top, right=left + box_width, bottom=top + box_height, width=width, height=height
    )
