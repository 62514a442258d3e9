"""Small movies taken apart into their boxes, and put together again otherwise."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import av

from tests.trainer.video.clips import box

TABLES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
"""The way to the tables of a movie's first track."""


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, whole box) of the boxes in `data`, all of which have sizes of four bytes."""
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append((data[4:8], data[:size]))
        data = data[size:]
    return found


def inside(data: bytes, path: Sequence[bytes]) -> bytes:
    """The content of the first box on a path of types."""
    for kind in path:
        data = dict(reversed(boxes(data)))[kind][8:]
    return data


def with_box(data: bytes, path: Sequence[bytes], change: Callable[[bytes], bytes]) -> bytes:
    """The same with another first box on a path of types: `change` is given its content, and gives all of the new box."""
    found, made = boxes(data), b""
    place = [kind for kind, _ in found].index(path[0])
    for number, (kind, whole) in enumerate(found):
        if number != place:
            made += whole
        elif len(path) == 1:
            made += change(whole[8:])
        else:
            made += box(kind, with_box(whole[8:], path[1:], change))
    return made


def rewritten(path: Path, way: Sequence[bytes], change: Callable[[bytes], bytes]) -> Path:
    """As `with_box`, of a file with its index behind the pictures, so that these stay where they are."""
    data = path.read_bytes()
    assert data.index(b"mdat") < data.index(b"moov")
    path.write_bytes(with_box(data, way, change))
    return path


def without(kind: bytes) -> Callable[[bytes], bytes]:
    """For `with_box`: the tables without those of a kind."""
    return lambda content: box(b"stbl", *(whole for name, whole in boxes(content) if name != kind))


def _samples(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def joined(path: Path, first: Path, second: Path) -> Path:
    """One track with the pictures of two movies of 30 frames a second without reordering, each with its own description."""
    movies = [first.read_bytes(), second.read_bytes()]
    samples = [_samples(first), _samples(second)]
    counts, sizes = [len(part) for part in samples], [len(sample) for part in samples for sample in part]
    (_, ftyp), *_ = boxes(movies[0])
    offset = len(ftyp) + 8
    scale = struct.unpack_from(">I", inside(movies[0], (*TABLES[:3], b"mdhd")), 12)[0]
    runs = [struct.pack(">III", number, count, number) for number, count in enumerate(counts, 1)]
    tables = box(
        b"stbl",
        box(b"stsd", struct.pack(">II", 0, 2), *(inside(data, (*TABLES, b"stsd"))[8:] for data in movies)),
        box(b"stts", struct.pack(">IIII", 0, 1, sum(counts), scale // 30)),
        box(b"stsc", struct.pack(">II", 0, 2), *runs),
        box(b"stsz", struct.pack(">III", 0, 0, sum(counts)), struct.pack(f">{len(sizes)}I", *sizes)),
        box(b"stco", struct.pack(">IIII", 0, 2, offset, offset + sum(sizes[: counts[0]]))),
    )
    moov = next(whole for kind, whole in boxes(movies[0]) if kind == b"moov")
    moov = with_box(moov, TABLES, lambda _: tables)
    moov = with_box(
        moov,
        TABLES[:2],
        lambda trak: box(b"trak", *(whole for kind, whole in boxes(trak) if kind != b"edts")),
    )
    path.write_bytes(ftyp + box(b"mdat", *samples[0], *samples[1]) + moov)
    return path
