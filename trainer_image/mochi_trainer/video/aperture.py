"""The clean aperture: the part of each picture that the maker of a file wants to be shown (ISO/IEC 14496-12, 12.1.4)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Window(NamedTuple):
    """Part of a picture, in its pixels as they are coded; `right` and `bottom` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    def apply(self, plane: NDArray[Any], scale: int = 1) -> NDArray[Any]:
        """What lies in the window of a picture (H, W, ...) that was made smaller by `scale`, without a copy; never nothing."""
        top, left = min(self.top // scale, len(plane) - 1), min(self.left // scale, len(plane[0]) - 1)
        return plane[top : max(top + 1, self.bottom // scale), left : max(left + 1, self.right // scale)]


class Aperture(NamedTuple):
    """A size, and how far its centre lies right of and below that of the picture; in pixels."""

    width: Fraction
    height: Fraction
    right: Fraction
    down: Fraction

    @classmethod
    def of(cls, *numbers: int) -> Aperture | None:
        """From four numerators, each before its denominator; None where a denominator is 0 or nothing is left."""
        if not all(numbers[1::2]):
            return None
        given = cls(*(Fraction(over, under) for over, under in zip(numbers[::2], numbers[1::2], strict=True)))
        return given if given.width > 0 and given.height > 0 else None

    def window(self, width: int, height: int) -> Window | None:
        """Where it lies in a picture, its edges at the nearest pixels; None where it does not lie inside."""
        left = (width - self.width) / 2 + self.right
        top = (height - self.height) / 2 + self.down
        right, bottom = left + self.width, top + self.height
        if left < 0 or top < 0 or right > width or bottom > height:
            return None
        found = Window(round(left), round(top), round(right), round(bottom))
        return found if found.width > 0 and found.height > 0 else None


def window_of(aperture: Aperture | None, width: int, height: int) -> Window:
    """What is shown of a picture: all of it where the file says nothing, or nonsense."""
    found = aperture.window(width, height) if aperture is not None else None
    return found or Window(0, 0, width, height)
