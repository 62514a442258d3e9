"""Movies in fragments (`moof`), box by box, at any times; the first samples may be in the index, as recorders leave them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av

from tests.trainer.video.boxed import TABLES, boxes, inside
from tests.trainer.video.clips import box, grey_levels, write_clip

KEY, OTHER = 0x02000000, 0x01010000
"""Flags of a sample."""


class Sample(NamedTuple):
    """One coded picture of a movie of grey levels."""

    data: bytes
    number: int
    """In the order in which they are shown."""

    key: bool


def coded(path: Path, count: int, **options: str) -> tuple[list[Sample], bytes]:
    """Pictures of grey levels in the order of decoding, and their sample description (the content of `stsd`)."""
    write_clip(path, grey_levels(count), [40 * k for k in range(count)], options=options)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    shown = sorted(packet.pts for packet in packets)
    samples = [Sample(bytes(p), shown.index(p.pts), bool(p.is_keyframe)) for p in packets]
    return samples, inside(path.read_bytes(), (*TABLES, b"stsd"))


class Timing(NamedTuple):
    """Of one sample, in ticks: when it is decoded, until the next is, how much later it is shown (less than 0: earlier)."""

    decoded: int
    lasts: int
    offset: int


def fragment(
    samples: Sequence[Sample], timings: Sequence[Timing], number: int, *, told: bool = True, track: int = 1
) -> bytes:
    """A `moof` with its `mdat`; `told` says when its first sample is decoded (`tfdt`)."""

    def moof(offset: int) -> bytes:
        rows = b"".join(
            struct.pack(">IIIi", timing.lasts, len(sample.data), KEY if sample.key else OTHER, timing.offset)
            for sample, timing in zip(samples, timings, strict=True)
        )
        run = box(b"trun", struct.pack(">IIi", 0x01000F01, len(samples), offset), rows)
        time = box(b"tfdt", struct.pack(">IQ", 1 << 24, timings[0].decoded)) if told else b""
        head = box(b"tfhd", struct.pack(">II", 0x020000, track))
        return box(b"moof", box(b"mfhd", struct.pack(">II", 0, number)), box(b"traf", head, time, run))

    return moof(len(moof(0)) + 8) + box(b"mdat", *(sample.data for sample in samples))


def index(
    path: Path,
    stsd: bytes,
    scale: int,
    samples: Sequence[Sample] = (),
    timings: Sequence[Timing] = (),
    *,
    edits: bytes = b"",
    mehd: bytes = b"",
) -> bytes:
    """`ftyp`, the pictures that are not in fragments (`mdat`) and `moov`, with the other boxes of the movie in `path`."""
    movie = dict(boxes(path.read_bytes()))
    sizes, place = [len(sample.data) for sample in samples], len(movie[b"ftyp"]) + 8
    places = [place + sum(sizes[:k]) for k in range(len(sizes))]
    keys = [k for k, sample in enumerate(samples, 1) if sample.key]
    tables = box(
        b"stbl",
        box(b"stsd", stsd),
        _table(b"stts", [(1, timing.lasts) for timing in timings]),
        _table(b"ctts", [(1, timing.offset) for timing in timings], version=1),
        _table(b"stss", [(key,) for key in keys]),
        _table(b"stsc", [(1, 1, 1)] if sizes else []),
        box(b"stsz", struct.pack(">III", 0, 0, len(sizes)), struct.pack(f">{len(sizes)}I", *sizes)),
        _table(b"stco", [(place,) for place in places]),
    )
    trak = inside(movie[b"moov"], (b"moov", b"trak"))
    minf = dict(boxes(inside(trak, (b"mdia", b"minf"))))
    mdia = dict(boxes(inside(trak, (b"mdia",))))
    length = sum(timing.lasts for timing in timings)
    media = box(
        b"mdia",
        box(b"mdhd", struct.pack(">IIIIII", 0, 0, 0, scale, length, 0)),
        mdia[b"hdlr"],
        box(b"minf", minf[b"vmhd"], minf[b"dinf"], tables),
    )
    mvex = box(b"mvex", mehd, box(b"trex", struct.pack(">6I", 0, 1, 1, 0, 0, 0)))
    moov = dict(boxes(movie[b"moov"][8:]))
    return (
        movie[b"ftyp"]
        + box(b"mdat", *(sample.data for sample in samples))
        + box(b"moov", moov[b"mvhd"], box(b"trak", dict(boxes(trak))[b"tkhd"], edits, media), mvex)
    )


def _table(kind: bytes, rows: Sequence[tuple[int, ...]], version: int = 0) -> bytes:
    numbers = [number for row in rows for number in row]
    return box(kind, struct.pack(">II", version << 24, len(rows)), struct.pack(f">{len(numbers)}i", *numbers))
