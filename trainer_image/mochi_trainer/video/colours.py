"""Decoded frames as planes of red, green and blue: colour matrix, range, chroma and alpha as the file says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.filter import Graph
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.filters import chain
from mochi_trainer.video.hdr import Primaries, Transfer
from mochi_trainer.video.shrinking import ROWS, Band, Planes
from mochi_trainer.video.tracks import Premultiplied

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
}
"""Matrix coefficients (ITU-T H.273) that are converted, by the names of libswscale."""

SILENT = {0, UNSPECIFIED, 3}
"""Values that say nothing of a picture in YUV: 0 is for RGB, 3 is reserved."""

OTHER_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 of constant luminance",
    11: "YDzDx",
    12: "derived",
    13: "derived",
    14: "ICtCp",
    15: "IPT (Dolby Vision profile 5)",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
TRANSFERS = {16: Transfer.PQ, 18: Transfer.HLG}
PRIMARIES = {1: Primaries.BT709, 11: Primaries.P3, 12: Primaries.P3}
"""Everything else in HDR is BT.2020."""

LIMITED_WHITE = 65280
"""White when libswscale makes 16 bits of YUV in limited range: 255 x 256."""

LIMITED, FULL = 1, 2

AROUND = 2
"""Rows above and below a band that are converted with it, for the chroma between its own and theirs."""


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
    """Converts the frames of one clip; it keeps what libswscale prepares for them.

    `chroma` says where chroma lies where the frames do not (`left`, `topleft`), `premultiplied` whether colours lie on
    something already where frames are transparent.
    """

    def __init__(self, chroma: str = "", premultiplied: Premultiplied = Premultiplied.NO) -> None:
        self._reformatter = VideoReformatter()
        self._premultiplied = premultiplied
        self._chroma = chroma
        self._like: tuple[Any, ...] = ()
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def colours(self, frame: Any) -> Colours:
        """Planes of a decoded frame; raise ClipError for a matrix that is not converted."""
        transfer = transfer_of(frame)
        matrix = _matrix(frame, transfer)
        alpha = any(component.is_alpha for component in frame.format.components)
        sampled = _subsampled(frame.format)
        if sampled and self._chroma:
            frame = self._passed(frame)
        if transfer is not Transfer.SDR:
            planes = (
                self._limited_grey(frame)
                if _is_limited_grey(frame)
                else self._deep(frame, matrix, alpha=alpha)
            )
            return Colours(planes, _sixteen_bits(frame), transfer, primaries_of(frame))
        if _is_limited_grey(frame):
            unit = np.float32(255 / LIMITED_WHITE)
            planes = tuple(
                (plane * unit + np.float32(0.5)).astype(np.uint8) for plane in self._limited_grey(frame)
            )
        elif alpha:
            planes = self._over_black(frame, matrix)
        elif frame.format.name == "gbrp":
            green, blue, red = [_plane(plane, np.uint8) for plane in frame.planes]
            planes = (red, green, blue)
        elif sampled:
            green, blue, red = self._planes(frame, "gbrp", matrix)
            planes = (red, green, blue)
        else:
            planes = self._as_ever(frame, matrix)
        return Colours(planes, 255, transfer, Primaries.BT709)

    def in_bands(self, frame: Any) -> Iterator[Band] | None:
        """The planes of `colours` some rows at a time, so that they are never there as a whole; None of a frame that is only
        converted as a whole. Raises ClipError for a matrix that is not converted."""
        pixels, transfer = frame.format, transfer_of(frame)
        if (
            transfer is not Transfer.SDR
            or not _subsampled(pixels)
            or not pixels.is_planar
            or any(component.is_alpha for component in pixels.components)
            or frame.interlaced_frame  # whose fields libswscale converts apart
            or pixels.chroma_height(4) < 2
            or frame.height % 2
            or frame.height < ROWS + 2 * AROUND
        ):
            return None
        return self._bands(frame, _matrix(frame, transfer))

    def _bands(self, frame: Any, matrix: Colorspace | None) -> Iterator[Band]:
        rows = ROWS + 2 * AROUND
        for top in range(0, frame.height, ROWS):
            first = min(max(0, top - AROUND), frame.height - rows)
            green, blue, red = self._planes(self._passed(frame, first, rows), "gbrp", matrix)
            inside = slice(top - first, min(top + ROWS, frame.height) - first)
            yield top, (red[inside], green[inside], blue[inside])

    def _as_ever(self, frame: Any, matrix: Colorspace | None) -> Planes:
        """Nothing but a matrix is needed: the bytes of libswscale left to itself."""
        packed = self._reformat(frame, "rgb24", matrix, Interpolation.BILINEAR)
        pixels = _plane(packed.planes[0], np.uint8, 3)
        return pixels[..., 0], pixels[..., 1], pixels[..., 2]

    def _over_black(self, frame: Any, matrix: Colorspace | None) -> Planes:
        if _bits(frame) > 8:
            unit = np.float32(255 / _sixteen_bits(frame))
            deep = self._deep(frame, matrix, alpha=True)
            return tuple(np.clip(plane * unit + np.float32(0.5), 0, 255).astype(np.uint8) for plane in deep)
        green, blue, red, opaque = self._planes(frame, "gbrap", matrix)
        if self._premultiplied is not Premultiplied.NO:
            return tuple(self._uncovered(plane, opaque, 255) for plane in (red, green, blue))
        return tuple(
            ((plane.astype(np.uint16) * opaque + 127) // 255).astype(np.uint8) for plane in (red, green, blue)
        )

    def _uncovered(self, plane: NDArray[Any], opaque: NDArray[Any], full: int) -> NDArray[Any]:
        """Colours that lie on something already, over black: less the white that shines through, where that is white."""
        if self._premultiplied is Premultiplied.WITH_BLACK:
            return plane
        white = np.int32(full) - opaque.astype(np.int32)
        return np.clip(plane.astype(np.int32) - white, 0, full).astype(plane.dtype)

    def _limited_grey(self, frame: Any) -> Planes:
        """Planes in 16 bits of a picture without chroma, which libswscale takes for one in full range whatever it says."""
        (grey, *_) = self._planes(frame, "gbrp16le", None)
        light = (grey.astype(np.float32) - (16 << 8)) * np.float32(LIMITED_WHITE / (219 << 8))
        plane = np.clip(light + np.float32(0.5), 0, LIMITED_WHITE).astype(np.uint16)
        return plane, plane, plane

    def _deep(self, frame: Any, matrix: Colorspace | None, *, alpha: bool) -> Planes:
        """Planes in 16 bits, over black where the frame is transparent."""
        green, blue, red, *rest = self._planes(frame, "gbrap16le" if alpha else "gbrp16le", matrix)
        if not rest:
            return red, green, blue
        if self._premultiplied is not Premultiplied.NO:
            share = _sixteen_bits(frame) / _top(_bits(frame))
            scaled = (rest[0] * np.float32(share)).astype(np.uint16)
            full = _sixteen_bits(frame)
            return tuple(self._uncovered(plane, scaled, full) for plane in (red, green, blue))
        opaque = rest[0] / np.float32(_top(_bits(frame)))
        return tuple((plane * opaque + np.float32(0.5)).astype(np.uint16) for plane in (red, green, blue))

    def _planes(self, frame: Any, name: str, matrix: Colorspace | None) -> list[NDArray[Any]]:
        kind = np.uint16 if name.endswith("16le") else np.uint8
        return [_plane(plane, kind) for plane in self._reformat(frame, name, matrix, CHROMA).planes]

    def _reformat(self, frame: Any, name: str, matrix: Colorspace | None, how: Interpolation) -> Any:
        return self._reformatter.reformat(
            frame, format=name, src_colorspace=matrix, interpolation=how, threads=1
        )

    def _passed(self, frame: Any, *part: int) -> Any:
        """The frame, told where its chroma lies; of a `part` (first row, rows) that alone, without a copy."""
        like = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._like != like:
            self._like, self._graphs = like, {}
        if part not in self._graphs:
            site = [("setparams", {"chroma_location": self._chroma})] if self._chroma else []
            crop = [("crop", {"x": "0", "y": str(part[0]), "h": str(part[1])})] if part else []
            self._graphs[part] = chain(frame, *site, *crop)
        self._graphs[part].vpush(frame)
        return self._graphs[part].vpull()


def primaries_of(frame: Any) -> Primaries:
    """Whose primaries a frame of HDR has; BT.2020 where it does not say."""
    return PRIMARIES.get(int(frame.color_primaries), Primaries.BT2020)


def _subsampled(pixels: Any) -> bool:
    return bool(pixels.chroma_width(2) == 1 or pixels.chroma_height(2) == 1)


def _bits(frame: Any) -> int:
    return int(frame.format.components[0].bits)


def _top(bits: int) -> int:
    """White when libswscale makes 16 bits of `bits` in full range."""
    return 65535 if bits == 8 else ((1 << bits) - 1) << (16 - bits)


def _sixteen_bits(frame: Any) -> int:
    """White when libswscale makes 16 bits of this frame."""
    if _is_limited_grey(frame):
        return LIMITED_WHITE
    full = (
        frame.format.is_rgb
        or int(frame.color_range) == FULL
        or frame.format.name.startswith(("yuvj", "ya", "gray"))
    )
    return _top(_bits(frame)) if full else LIMITED_WHITE


def _is_limited_grey(frame: Any) -> bool:
    return frame.format.name.startswith("gray") and int(frame.color_range) == LIMITED


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


def _plane(plane: Any, kind: type[Any], depth: int = 1) -> NDArray[Any]:
    """The numbers (H, W) or (H, W, depth) of a plane, whose rows may be padded, without a copy."""
    rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // np.dtype(kind).itemsize)
    seen = rows[: plane.height, : plane.width * depth]
    return seen if depth == 1 else seen.reshape(plane.height, plane.width, depth)
