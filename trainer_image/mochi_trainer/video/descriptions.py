"""What the sample description of a video track says of its pictures, in the boxes inside it.

Read here is what decoders are not told, or tell nobody: `clap` (ISO/IEC 14496-12, 12.1.4), `fiel` and `colr` (QuickTime File Format),
`dvcC` and its kin (Dolby Vision streams within the ISO base media file format), where AV1 and VP9 have their chroma.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mochi_trainer.video.aperture import Aperture
from mochi_trainer.video.boxes import children

ENTRY = 94
"""Where the boxes inside the first sample description of a video begin."""

UNSPECIFIED = 2
DOLBY_VISION_BOXES = (b"dvcC", b"dvvC", b"dvwC")
CLAP = struct.Struct(">IIIIiIiI")


class Fields(StrEnum):
    """What a container says of the fields of all its pictures; the values are those of bwdif's `parity`."""

    UNTOLD = ""
    NONE = "none"
    """Progressive."""

    TOP_FIRST = "tff"
    BOTTOM_FIRST = "bff"
    IN_SOME_ORDER = "auto"


class DolbyVision(NamedTuple):
    """What a track says of its Dolby Vision."""

    profile: int
    compatible: int
    """What a decoder without Dolby Vision may take the pictures for: 1 HDR10, 2 SDR, 4 HLG, 6 HDR10 of a disc; 0 nothing."""

    base: bool
    """Whether the track has pictures, or only what is added to those of another one."""

    @property
    def readable(self) -> bool:
        """Whether the pictures are what their tags say; in profile 5, and its likes in AV1 and MV-HEVC, they are IPT-PQ-c2.

        Early files of other profiles say 0 too, where the number was not yet known.
        """
        return self.profile != 5 and (self.compatible != 0 or self.profile not in {10, 20})


class Colour(NamedTuple):
    """What a container says of the colours of its pictures, in the numbers of ITU-T H.273; `UNSPECIFIED` is nothing."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED


NOT_TOLD = Colour()

ORDERS = {1: Fields.TOP_FIRST, 9: Fields.TOP_FIRST, 6: Fields.BOTTOM_FIRST, 14: Fields.BOTTOM_FIRST}
"""By the second byte of `fiel`: 1 and 6 say which field is earlier, 9 and 14 that of the first line is earlier or later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What one sample description says of its pictures."""

    chroma: str = ""
    """Where chroma lies, by the name of libavfilter, where the decoder does not tell it."""

    aperture: Aperture | None = None
    """The part that is to be shown; None: all."""

    square: bool = True
    """Nothing is said of the shape of a pixel (`pasp`)."""

    fields: Fields = Fields.UNTOLD
    dolby_vision: DolbyVision | None = None
    colour: Colour = NOT_TOLD


def read_description(codec: str, stsd: memoryview) -> Description:
    """What the first sample description in the content of an `stsd` says; `codec` are its four letters."""
    boxes = list(children(stsd[ENTRY:]))
    inside = dict(boxes)
    nothing = memoryview(b"")
    return Description(
        chroma=_chroma(codec, inside.get(b"av1C", nothing)),
        aperture=_aperture(inside.get(b"clap", nothing)),
        square=b"pasp" not in inside,
        fields=_fields(inside.get(b"fiel", nothing)),
        dolby_vision=next((_dolby(inside[kind]) for kind in DOLBY_VISION_BOXES if kind in inside), None),
        colour=_colour([content for kind, content in boxes if kind == b"colr"]),
    )


def _chroma(codec: str, av1: memoryview) -> str:
    """VP9 has no word for it but in its box (`vpcC`), where ffmpeg writes the same for all; AV1 may leave it open.

    Both are then what H.264 is without a word, and what players take: left.
    """
    if codec in {"vp08", "vp09"}:
        return "left"
    return "left" if codec == "av01" and len(av1) > 2 and not av1[2] & 3 else ""


def _aperture(clap: memoryview) -> Aperture | None:
    return Aperture.of(*CLAP.unpack_from(clap)) if len(clap) >= CLAP.size else None


def _fields(fiel: memoryview) -> Fields:
    if len(fiel) < 2 or fiel[0] not in {1, 2}:
        return Fields.UNTOLD
    return Fields.NONE if fiel[0] == 1 else ORDERS.get(fiel[1], Fields.IN_SOME_ORDER)


def _colour(colours: Sequence[memoryview]) -> Colour:
    """Of several boxes (`colr`) the one with numbers; ICC profiles are left aside."""
    for content in colours:
        if content[:4] in {b"nclx", b"nclc"} and len(content) >= 10:
            return Colour(*struct.unpack_from(">3H", content, 4))
    return NOT_TOLD


def _dolby(configuration: memoryview) -> DolbyVision | None:
    """Behind two bytes of version: 7 bits of profile, 6 of level, a bit each for metadata, enhancement, base; 4 of what fits."""
    if len(configuration) < 5:
        return None
    numbers = int.from_bytes(configuration[2:5], "big")
    return DolbyVision(numbers >> 17, numbers >> 4 & 15, bool(numbers >> 8 & 1))
