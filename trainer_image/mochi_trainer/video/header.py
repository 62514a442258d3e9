"""What an MP4 or MOV claims in its boxes (ISO/IEC 14496-12), read before libav sees the file.

Only sizes and counts are read here, so that a file which claims too much is refused before memory is taken, one that
is no MP4 or MOV never reaches another demuxer, and one that was cut off is known as such.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.boxes import box_size, children, duration, indexed, long, number, version
from mochi_trainer.video.fragments import samples_of, shifts_of
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.signatures import HEAD, foreign
from mochi_trainer.video.timeline import Edit
from mochi_trainer.video.tracks import Track, read_track

BOXES = {
    b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"styp", b"sidx", b"moof", b"junk", b"PICT", b"pict", b"meta",
}  # fmt: skip
"""Types of which an MP4 or MOV is made, those inside others left out."""

PICTURES = {b"moov", b"moof", b"mdat"}
"""Types without which pictures are missing."""

INDEXES = {b"moov", b"moof", b"sidx"}
"""Types that say what there is."""

MOST_BOXES = 1_000_000


@dataclass(slots=True)
class Header:
    """What a file claims."""

    size: int
    """Bytes that are there."""

    claimed: int = 0
    """Bytes that its boxes say are there; more than `size` when it was cut off."""

    seconds: float = 0.0
    scale: int = 0
    """Units of the file's time in a second."""

    tracks: list[Track] = field(default_factory=list)
    fragment_samples: int = 0
    first_fragment: int = 0
    """Where in the file it begins; 0 where there is none."""

    shifts: dict[int, int] = field(default_factory=dict)
    """By the number of a track: ticks by which a sample in a fragment is shown before it is decoded, at most."""

    with_fragments: float = 0.0
    """Seconds that it says all its fragments (`moof`) have; 0 where it does not say it."""

    @property
    def cut_off(self) -> str:
        """In words, how much is missing; empty when nothing seems to be."""
        return f"cut off: {self.size} of {self.claimed} bytes are there" if self.claimed > self.size else ""

    def track(self, stream: Any) -> Track:
        """What the track of a stream of libav claims; nothing when there is none. Several may have one number."""
        numbered = [track for track in self.tracks if track.number == stream.id]
        placed = self.tracks[stream.index : stream.index + 1]
        return next((track for track in (*placed, *numbered) if track.number == stream.id), Track())

    def edits(self, stream: Any) -> list[Edit]:
        """The edit list of the track of a stream."""
        track = self.track(stream)
        if not self.scale or not track.scale:
            return []
        return [
            Edit(
                Fraction(length, self.scale),
                None if media < 0 else Fraction(media, track.scale),
                Fraction(max(rate, 0), 1 << 16),
            )
            for length, media, rate in track.edits
        ]


def read_header(path: Path, limits: Limits) -> Header:
    """What the file claims; raise ClipError when it is empty, no MP4 or MOV, has no index or claims too much."""
    with path.open("rb") as file:
        header = Header(size=path.stat().st_size)
        if header.size == 0:
            raise ClipError("the file is empty (0 bytes)", ClipReason.CORRUPT)
        head = file.read(HEAD)
        found = _walk(file, header, limits)
        if not found & {b"moov", head[4:8]} & BOXES:
            raise foreign(head, path.name)
    _check_index(header, found)
    _check_claims(header, limits)
    return header


def _walk(file: BinaryIO, header: Header, limits: Limits) -> set[bytes]:
    found: set[bytes] = set()
    position = 0
    for _ in range(MOST_BOXES):
        if position >= header.size:
            return found
        file.seek(position)
        start = file.read(16)
        if len(start) < 8:
            header.claimed = max(header.claimed, _begun(start, position, header))
            return found
        size, kind, skip = box_size(start, header.size - position)
        if size < skip:
            return found
        found.add(kind)
        if kind in PICTURES:
            header.claimed = max(header.claimed, position + size)
        if kind in INDEXES:
            content = _content(file, position + skip, size - skip, header.size, limits)
            _parse(kind, content, header, limits, range(position, position + size))
        position += size
    raise ClipError(f"more than {MOST_BOXES} boxes in the file", ClipReason.TOO_LARGE)


def _content(file: BinaryIO, position: int, size: int, there: int, limits: Limits) -> memoryview:
    if size > limits.header_bytes:
        raise ClipError(
            f"its index claims {size} bytes, at most {limits.header_bytes} are read", ClipReason.TOO_LARGE
        )
    file.seek(position)
    return memoryview(file.read(min(size, there)))


def _begun(start: bytes, position: int, header: Header) -> int:
    """Where the head of a box ends of which less than a head is there; four zeros end a list, and are none."""
    return position + 8 if header.first_fragment and start != bytes(4) else 0


def _parse(kind: bytes, data: memoryview, header: Header, limits: Limits, place: range) -> None:
    if kind == b"moof":
        _parse_fragment(data, header, place.start)
        return
    if kind == b"sidx":
        header.claimed = max(header.claimed, place.stop + indexed(data))
        return
    for name, content in children(data):
        if name == b"mvhd":
            header.scale, seconds = duration(content)
            header.seconds = max(header.seconds, seconds)
        elif name == b"trak":
            header.tracks.append(read_track(content))
        elif name == b"mvex":
            header.with_fragments = _all_fragments(content, header.scale)
        elif name == b"cmov":
            _parse(b"moov", _inflated(content, limits), header, limits, place)


def _parse_fragment(moof: memoryview, header: Header, position: int) -> None:
    header.first_fragment = header.first_fragment or position
    header.fragment_samples += samples_of(moof)
    for track, shift in shifts_of(moof):
        header.shifts[track] = max(shift, header.shifts.get(track, 0))


def _all_fragments(mvex: memoryview, scale: int) -> float:
    mehd = dict(children(mvex)).get(b"mehd", memoryview(b""))
    return (long(mehd, 4) if version(mehd) == 1 else number(mehd, 4)) / scale if scale else 0.0


def _inflated(cmov: memoryview, limits: Limits) -> memoryview:
    """The index that is compressed in a `cmov`: QuickTime files of the nineties."""
    packed = dict(children(cmov)).get(b"cmvd", memoryview(b""))
    claimed = number(packed, 0)
    if claimed > limits.header_bytes:
        raise ClipError(
            f"its index claims {claimed} bytes, at most {limits.header_bytes} are read", ClipReason.TOO_LARGE
        )
    try:
        moov = zlib.decompressobj().decompress(bytes(packed[4:]), claimed)
    except zlib.error as error:
        raise ClipError(f"cannot be read as MP4 or MOV: {error}", ClipReason.CORRUPT) from error
    return next((content for kind, content in children(memoryview(moov)) if kind == b"moov"), memoryview(b""))


def _check_index(header: Header, found: set[bytes]) -> None:
    if b"moov" in found:
        return
    if header.cut_off:
        raise ClipError(f"{header.cut_off}, its index (moov) is not", ClipReason.CORRUPT)
    if b"meta" in found:
        raise ClipError("a still picture (HEIF), no video", ClipReason.NO_VIDEO_STREAM)
    raise ClipError("cannot be read as MP4 or MOV: it has no index (moov)", ClipReason.CORRUPT)


def _check_claims(header: Header, limits: Limits) -> None:
    videos = [track for track in header.tracks if track.kind == "vide"]
    for track in videos:
        if track.width * track.height > limits.pixels:
            raise ClipError(
                f"claims {track.width}x{track.height} pixels, at most {limits.pixels} of them are read",
                ClipReason.TOO_LARGE,
            )
    samples = max([0, *(track.samples for track in header.tracks if not track.uncompressed_sound)])
    if samples + header.fragment_samples > limits.samples:
        raise ClipError(
            f"claims {samples + header.fragment_samples} frames, at most {limits.samples} are read; "
            "cut it into shorter clips",
            ClipReason.TOO_LARGE,
        )
    seconds = max([header.seconds, *(track.seconds for track in videos)])
    if seconds > limits.seconds:
        raise ClipError(
            f"claims {seconds / 3600:.1f} hours, at most {limits.seconds / 3600:g} are read; cut it into shorter clips",
            ClipReason.TOO_LARGE,
        )
