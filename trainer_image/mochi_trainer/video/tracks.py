"""What one track of an MP4 or MOV claims: kind, codec, size, how many samples, how long, and its edit list."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.boxes import below, children, duration, number, version
from mochi_trainer.video.descriptions import Description, read_description
from mochi_trainer.video.fragments import shift

MOST_EDITS = 100_000


class Premultiplied(Enum):
    """Whether the colours of a transparent picture lie on something already: the graphics mode of a track (`vmhd`)."""

    NO = 0
    WITH_WHITE = 0x101
    WITH_BLACK = 0x102


CONTAINERS = (b"edts", b"mdia", b"minf", b"stbl")


@dataclass(slots=True)
class Track:
    """What one track claims; 0 where it says nothing."""

    number: int = 0
    kind: str = ""
    """Type of its handler: `vide`, `soun`."""

    codec: str = ""
    """The four letters of its first sample description."""

    codecs: tuple[str, ...] = ()
    """Those of all its sample descriptions."""

    used: frozenset[int] = frozenset()
    """Numbers, from 1 on, of the sample descriptions that its samples have; none where it is fragmented."""

    description: Description = field(default_factory=Description)
    premultiplied: Premultiplied = Premultiplied.NO
    width: int = 0
    height: int = 0
    """The larger of what the track and its sample description say."""

    scaled: bool = False
    """Track and sample description say different sizes: the pixels are not square, or only a part is shown."""

    sizes: int = 0
    """Samples whose sizes are given: all that are not in fragments."""

    samples: int = 0
    """The most that any of its tables claims."""

    seconds: float = 0.0
    scale: int = 0
    """Units of the media's time in a second."""

    shift: int = 0
    """Ticks by which libav takes a sample to be shown before it is decoded, at most; it leaves out the last two runs."""

    edits: list[tuple[int, int, int]] = field(default_factory=list)
    """(duration in units of the file, media time or -1, rate in 1/65536)."""

    uncompressed_sound: bool = False
    """One sample of sound each: libav keeps an entry for each chunk of these only."""

    @property
    def others(self) -> tuple[str, ...]:
        """Codecs of its samples beside that of the first sample description: libav passes over these samples."""
        used = (self.codecs[place - 1] for place in sorted(self.used) if 0 < place <= len(self.codecs))
        return tuple(dict.fromkeys(codec for codec in used if codec != self.codec))


def read_track(trak: memoryview) -> Track:
    """What the content of a `trak` box claims; raise ClipError when its edit list is beyond all use."""
    track = Track()
    for kind, content in below(trak, CONTAINERS):
        if kind in READERS:
            READERS[kind](track, content)
    return track


def _tkhd(track: Track, content: memoryview) -> None:
    track.number = number(content, 20 if version(content) == 1 else 12)
    _grow(track, number(content, len(content) - 8) >> 16, number(content, len(content) - 4) >> 16)


def _mdhd(track: Track, content: memoryview) -> None:
    track.scale, seconds = duration(content)
    track.seconds = max(track.seconds, seconds)


def _elst(track: Track, content: memoryview) -> None:
    form = struct.Struct(">Qqi" if version(content) == 1 else ">Iii")
    there = min(number(content, 4), max(len(content) - 8, 0) // form.size)
    if there > MOST_EDITS:
        raise ClipError(f"claims {there} edits, at most {MOST_EDITS} are read", ClipReason.TOO_LARGE)
    track.edits = [form.unpack_from(content, 8 + place * form.size) for place in range(there)]


def _hdlr(track: Track, content: memoryview) -> None:
    if content[4:8].tobytes() != b"dhlr":
        track.kind = content[8:12].tobytes().decode("latin-1")


def _vmhd(track: Track, content: memoryview) -> None:
    mode = number(content, 2) & 0xFFFF
    if mode in {Premultiplied.WITH_WHITE.value, Premultiplied.WITH_BLACK.value}:
        track.premultiplied = Premultiplied(mode)


def _stsd(track: Track, content: memoryview) -> None:
    track.codecs = tuple(kind.decode("latin-1") for kind, _ in children(content[8:]))
    track.codec = content[12:16].tobytes().decode("latin-1")
    track.description = read_description(track.codec, content)
    both = number(content, 40)
    width, height = both >> 16, both & 0xFFFF
    track.scaled = track.width * track.height > 0 and (track.width, track.height) != (width, height)
    _grow(track, width, height)


def _stsz(track: Track, content: memoryview) -> None:
    track.sizes = number(content, 8)
    track.samples = max(track.samples, track.sizes)


def _stsc(track: Track, content: memoryview) -> None:
    runs = np.frombuffer(content[8 : 8 + min(number(content, 4), max(len(content) - 8, 0) // 12) * 12], ">u4")
    track.used = frozenset(runs[2::3].tolist())


def _stts(track: Track, content: memoryview) -> None:
    runs = np.frombuffer(content[8 : min(8 + 8 * number(content, 4), len(content) // 8 * 8)], ">u4")
    counts, deltas = runs[: len(runs) // 2 * 2 : 2].astype(float), runs[1::2].astype(float)
    track.uncompressed_sound = len(counts) == 1 and deltas[0] == 1
    track.samples = max(track.samples, int(counts.sum()))
    backward = deltas >= 1 << 31
    track.seconds = max(track.seconds, float((counts * deltas)[~backward].sum()) / max(track.scale, 1))


def _ctts(track: Track, content: memoryview) -> None:
    runs = np.frombuffer(content[8 : min(8 + 8 * number(content, 4), len(content) // 8 * 8)], ">i4")
    track.shift = shift(runs[1::2][:-2])


def _grow(track: Track, width: int, height: int) -> None:
    track.width, track.height = max(track.width, width), max(track.height, height)


READERS: dict[bytes, Callable[[Track, memoryview], None]] = {
    b"tkhd": _tkhd,
    b"mdhd": _mdhd,
    b"elst": _elst,
    b"hdlr": _hdlr,
    b"vmhd": _vmhd,
    b"stsd": _stsd,
    b"stsc": _stsc,
    b"stsz": _stsz,
    b"stz2": _stsz,
    b"stts": _stts,
    b"ctts": _ctts,
}
