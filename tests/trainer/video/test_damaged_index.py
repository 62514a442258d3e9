"""An index that does not lead to the pictures is the file's damage: such a clip is never called too short."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.footage.passes import overview
from mochi_trainer.video import Cut, Limits, read_clip, shown_frames
from tests.trainer.video.boxed import TABLES, boxes, joined, rewritten, without
from tests.trainer.video.clips import box, grey_levels, with_edits, write_clip
from tests.trainer.video.movies import frame_of, write_movie

TIMES = [40 * k for k in range(12)]
MDHD = (*TABLES[:3], b"mdhd")


def cut(least: int) -> Cut:
    return Cut(frames=least, least=least, fps=25, width=48, height=32)


def refused(path: Path, least: int = 12) -> ClipError:
    with pytest.raises(ClipError) as caught:
        read_clip(path, cut(least))
    return caught.value


def put(offset: int, data: bytes, kind: bytes) -> Callable[[bytes], bytes]:
    return lambda content: box(kind, content[:offset], data, content[offset + len(data) :])


Damage = Callable[[Path], object]
KINDS: dict[str, tuple[Damage, str]] = {
    "no times": (lambda path: rewritten(path, TABLES, without(b"stts")), "0 of its 12 pictures"),
    "no sizes": (lambda path: rewritten(path, TABLES, without(b"stsz")), "no picture in it is ever on screen"),
    "no chunks": (lambda path: rewritten(path, TABLES, without(b"stsc")), "0 of its 12 pictures"),
    "no places": (lambda path: rewritten(path, TABLES, without(b"stco")), "0 of its 12 pictures"),
    "an empty list of places": (
        lambda path: rewritten(path, (*TABLES, b"stco"), lambda _: box(b"stco", bytes(8))),
        "0 of its 12 pictures",
    ),
    "more sizes than chunks have": (
        lambda path: rewritten(path, (*TABLES, b"stsz"), put(8, struct.pack(">I", 400), b"stsz")),
        "of its 400 pictures",
    ),
    "a chunk with fewer": (
        lambda path: rewritten(path, (*TABLES, b"stsc"), put(12, struct.pack(">I", 7), b"stsc")),
        "7 of its 12 pictures",
    ),
    "no track": (
        lambda path: rewritten(path, (b"moov",), lambda moov: box(b"moov", boxes(moov)[0][1])),
        "it has no track",
    ),
    "no word of what a track is": (
        lambda path: rewritten(path, TABLES[:3], lambda media: box(b"mdib", media)),
        "it does not say what a track is",
    ),
    "no codec": (lambda path: rewritten(path, TABLES, without(b"stsd")), "in which codec"),
    "a codec of no letters": (
        lambda path: rewritten(path, (*TABLES, b"stsd"), put(12, b"\0\0\0\2", b"stsd")),
        "in which codec",
    ),
    "no unit of time": (lambda path: rewritten(path, MDHD, put(12, bytes(4), b"mdhd")), "0 units of time"),
    "edits behind the end": (
        lambda path: with_edits(path, [(480, 60_000, 1.0)]),
        "no picture in it is ever on screen",
    ),
    "a first picture after all others": (
        lambda path: rewritten(
            path,
            TABLES,
            lambda tables: box(b"stbl", tables, box(b"ctts", struct.pack(">6I", 0, 2, 1, 1 << 30, 11, 0))),
        ),
        "no picture in it is ever on screen",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_corrupt_however_the_clip_is_read(tmp_path: Path, kind: str) -> None:
    damage, said = KINDS[kind]
    path = write_clip(tmp_path / "a.mp4", grey_levels(12), TIMES)
    damage(path)
    error = refused(path)
    assert (error.reason, said in str(error)) == (ClipReason.CORRUPT, True), str(error)
    if kind == "a first picture after all others":  # its times by themselves are in order
        return
    with pytest.raises(ClipError) as caught:
        shown_frames(path, 25, 0, Limits())
    assert caught.value.reason is ClipReason.CORRUPT


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(("no ", "more", "a chunk"))])
def test_a_film_with_such_an_index_is_corrupt(tmp_path: Path, kind: str) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_levels(12), TIMES)
    KINDS[kind][0](path)
    with pytest.raises(ClipError) as caught:
        overview(path)
    assert caught.value.reason is ClipReason.CORRUPT


def test_what_is_needed_of_a_damaged_index_is_read(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_levels(12), TIMES)
    KINDS["a chunk with fewer"][0](path)
    assert len(read_clip(path, cut(7)).frames) == 7
    assert refused(path, 8).reason is ClipReason.CORRUPT


def test_an_index_without_fragments_is_corrupt(tmp_path: Path) -> None:
    """What a recording leaves that ended at once."""
    path = write_clip(tmp_path / "a.mp4", grey_levels(12), TIMES)
    rewritten(path, TABLES, lambda tables: box(b"stbl", *_emptied(tables)))
    assert refused(path).reason is ClipReason.CORRUPT


def _emptied(tables: bytes) -> list[bytes]:
    empty = {b"stsz": 12, b"stts": 8, b"stsc": 8, b"stco": 8}
    return [
        box(kind, bytes(empty[kind])) if kind in empty else whole
        for kind, whole in boxes(tables)
        if kind != b"stss"
    ]


def movie(path: Path, codec: str, first: int) -> Path:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    chroma = np.full((16, 24), 128, np.uint8)
    frames = [
        frame_of([np.full((32, 48), 8 * k, np.uint8), chroma, chroma], pixels)
        for k in range(first, first + 6)
    ]
    return write_movie(path, frames, codec=codec)


@pytest.mark.parametrize(("codec", "letters"), [("mjpeg", "jpeg"), ("mpeg4", "mp4v")])
def test_a_track_in_two_codecs_is_unsupported_where_the_second_is_needed(
    tmp_path: Path, codec: str, letters: str
) -> None:
    """libav passes over the rest, which would be a clip that is too short."""
    path = joined(
        tmp_path / "a.mov", movie(tmp_path / "1.mov", "libx264", 2), movie(tmp_path / "2.mov", codec, 8)
    )
    assert len(read_clip(path, Cut(frames=6, least=6, fps=30, width=48, height=32)).frames) == 6
    error = refused(path, 12)
    assert error.reason is ClipReason.UNSUPPORTED
    assert f"in several codecs (avc1 and {letters})" in str(error)


def test_a_description_that_no_picture_has_is_no_hindrance(tmp_path: Path) -> None:
    path = joined(
        tmp_path / "a.mov", movie(tmp_path / "1.mov", "libx264", 2), movie(tmp_path / "2.mov", "mpeg4", 8)
    )
    one = movie(tmp_path / "b.mov", "libx264", 2)
    both = path.read_bytes()
    entry = both[both.index(b"stsd") - 4 :]
    rewritten(one, (*TABLES, b"stsd"), lambda _: entry[: int.from_bytes(entry[:4], "big")])
    assert shown_frames(one, 30, 0, Limits()) == 6


def test_a_track_of_two_sizes_is_read(tmp_path: Path) -> None:
    """Each picture is brought to the size of training by itself."""
    large = write_movie(
        tmp_path / "2.mov",
        [
            frame_of([np.full((64, 96), 8 * k, np.uint8), *[np.full((32, 48), 128, np.uint8)] * 2], "yuv420p")
            for k in range(8, 14)
        ],
    )
    path = joined(tmp_path / "a.mov", movie(tmp_path / "1.mov", "libx264", 2), large)
    frames = read_clip(path, Cut(frames=12, least=12, fps=30, width=48, height=32)).frames
    levels = [(8 * k - 16) * 255 / 219 for k in range(2, 14)]
    assert np.abs(frames.mean((1, 2, 3)) - levels).max() < 1
