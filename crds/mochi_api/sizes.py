"""Sizes of training clips. What reads clips needs no more of this package than this and the reasons (`clips`)."""

from __future__ import annotations

from typing import NamedTuple


class Bucket(NamedTuple):
    """A size of training clips."""

    frames: int
    width: int
    height: int

    @property
    def label(self) -> str:
        """Such as `37x848x480`."""
        return f"{self.frames}x{self.width}x{self.height}"
