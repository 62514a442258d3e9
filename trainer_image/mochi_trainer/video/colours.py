"""Decoded frames as planes of red, green and blue: colour matrix, range, chroma and alpha as the file says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.video.hdr import Primaries, Transfer

CHROMA = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
"""Chroma is interpolated between its samples, where the file says that they lie, and nothing is rounded twice."""

HD_LINES = 720
"""From this height on, video that does not say its colour matrix uses BT.709."""

UNSPECIFIED = 2
MATRICES: dict[int, Colorspace] = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""Matrix coefficients (ITU-T H.273) that are converted, by the names of libswscale."""

SILENT = {0, UNSPECIFIED, 3}
"""Values that say nothing of a picture in YUV: 0 is for RGB, 3 is reserved."""

OTHER_MATRICES = {
    8: "YCgCo",
    11: "YDzDx",
    12: "derived",
    13: "derived",
    14: "ICtCp",
    15: "IPT (Dolby Vision profile 5)",
}
TRANSFERS = {16: Transfer.PQ, 18: Transfer.HLG}
PRIMARIES = {1: Primaries.BT709, 11: Primaries.P3, 12: Primaries.P3}
"""Everything else in HDR is BT.2020."""

SIXTEEN_BITS = 65280
"""White when libswscale makes 16 bits of YUV: 255 x 256."""

Planes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Colours:
    """One frame, at its own size and not yet turned."""

    planes: Planes
    """Red, green, blue: (H, W), 8 bits; 16 bits of the coded signal when it is HDR."""

    full: int
    """The number that stands for white."""

    transfer: Transfer
    primaries: Primaries


def transfer_of(frame: Any) -> Transfer:
    """Whether a frame is HDR."""
    return TRANSFERS.get(int(frame.color_trc), Transfer.SDR)


class Converter:
    """Converts the frames of one clip; it keeps what libswscale prepares for them."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def colours(self, frame: Any) -> Colours:
        """Planes of a decoded frame; raise ClipError for a matrix that is not converted."""
        transfer = transfer_of(frame)
        deep = "" if transfer is Transfer.SDR else "16le"
        alpha = any(component.is_alpha for component in frame.format.components)
        planes = self._planes(frame, f"gbrap{deep}" if alpha else f"gbrp{deep}", _matrix(frame, transfer))
        full = 255 if not deep else (65535 if frame.format.is_rgb else SIXTEEN_BITS)
        green, blue, red = (_over_black(plane, planes[3]) if alpha else plane for plane in planes[:3])
        primaries = PRIMARIES.get(int(frame.color_primaries), Primaries.BT2020)
        return Colours((red, green, blue), full, transfer, primaries)

    def _planes(self, frame: Any, name: str, matrix: Colorspace | None) -> list[NDArray[Any]]:
        converted = self._reformatter.reformat(
            frame, format=name, src_colorspace=matrix, interpolation=CHROMA, threads=1
        )
        return [_plane(plane, np.uint16 if name.endswith("16le") else np.uint8) for plane in converted.planes]


def _matrix(frame: Any, transfer: Transfer) -> Colorspace | None:
    """The matrix of a frame; None: as libswscale does without being told, which is BT.601."""
    given = int(frame.colorspace)
    if frame.format.is_rgb:
        return None
    if given in OTHER_MATRICES:
        raise ClipError(
            f"its colour matrix {OTHER_MATRICES[given]} is not converted; export the clip as BT.709 from its source",
            ClipReason.UNSUPPORTED,
        )
    if given not in SILENT and given in MATRICES:
        return MATRICES[given]
    if transfer is not Transfer.SDR:
        return Colorspace.BT2020
    if frame.height >= HD_LINES:
        return Colorspace.ITU709
    return None if given == UNSPECIFIED else Colorspace.ITU601


def _plane(plane: Any, kind: type[Any]) -> NDArray[Any]:
    """The (H, W) numbers of a plane, whose rows may be padded, without a copy."""
    size = np.dtype(kind).itemsize
    rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // size)
    return rows[: plane.height, : plane.width]


def _over_black(plane: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    full = np.iinfo(plane.dtype).max
    shown: NDArray[Any] = ((plane.astype(np.uint32) * alpha + full // 2) // full).astype(plane.dtype)
    return shown
