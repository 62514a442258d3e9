"""Where to cut a picture so that it fills the size of training: cover, centre, keep the aspect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Framing:
    """A centred box of the source, in its pixels, and the size it is scaled to."""

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

    def apply(self, picture: Picture) -> Picture:
        """Cut and scale one picture (H, W, 3) with an antialiasing filter."""
        box = (self.left, self.top, self.right, self.bottom)
        scaled = Image.fromarray(picture).resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(scaled)


def framing(
    source_width: int, source_height: int, width: int, height: int, *, pixel_aspect: float = 1.0
) -> Framing:
    """The largest centred box with the aspect of `width` x `height`.

    `pixel_aspect` is the width of a source pixel over its height, 1 but for anamorphic video.
    """
    aspect = width / height / pixel_aspect
    box_width = min(float(source_width), source_height * aspect)
    box_height = min(float(source_height), source_width / aspect)
    left, top = (source_width - box_width) / 2, (source_height - box_height) / 2
    return Framing(
        left=left, top=top, right=left + box_width, bottom=top + box_height, width=width, height=height
    )
