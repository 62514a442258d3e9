"""How a picture is turned and mirrored before it is shown: the display matrix of the container or of the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

_TURN = np.array([[0, 1], [-1, 0]])
_MIRROR = np.array([[-1, 0], [0, 1]])


@dataclass(frozen=True, slots=True)
class Orientation:
    """Mirrored left to right first, then turned clockwise by quarters."""

    mirrored: bool = False
    quarters: int = 0

    @property
    def lies(self) -> bool:
        """Whether width and height change places."""
        return self.quarters % 2 == 1

    def apply(self, plane: NDArray[Any]) -> NDArray[Any]:
        """A picture (H, W) or (H, W, 3) as it is shown."""
        if self.mirrored:
            plane = plane[:, ::-1]
        return np.rot90(plane, -self.quarters)


ALL = tuple(Orientation(mirrored, quarters) for mirrored in (False, True) for quarters in range(4))


def orientation(matrix: tuple[int, ...] | None) -> Orientation:
    """The one of the eight orientations nearest to a display matrix (a b u, c d v, x y w), all numbers of any scale.

    A point (x, y), y downwards, is shown at (a x + c y, b x + d y). No matrix, or one that shows nothing, is upright.
    """
    if matrix is None or len(matrix) != 9:
        return Orientation()
    given = np.array([[matrix[0], matrix[1]], [matrix[3], matrix[4]]], float)
    likeness = [float((_matrix(candidate) * given).sum()) for candidate in ALL]
    return ALL[int(np.argmax(likeness))] if max(likeness) > 0 else Orientation()


def orientation_of(frame: Any) -> Orientation:
    """How a decoded frame is to be shown.

    `frame.side_data` would keep itself in the frame, and with it the frame in memory until the garbage is collected:
    12 MB for each of 4K.
    """
    try:
        data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # the stub lacks it
    except ValueError:  # av 18: side data of a kind that it has no name for
        return Orientation(quarters=round(-frame.rotation / 90) % 4)
    return orientation(None if data is None else tuple(np.frombuffer(bytes(data), np.int32).tolist()))


def _matrix(candidate: Orientation) -> NDArray[Any]:
    turned: NDArray[Any] = np.linalg.matrix_power(_TURN, candidate.quarters)
    return _MIRROR @ turned if candidate.mirrored else turned
