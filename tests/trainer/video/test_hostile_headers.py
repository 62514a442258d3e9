"""A file that claims too much is refused from its header, before memory is taken; one that was cut off is Corrupt."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.video import Cut, Limits, read_clip
from mochi_trainer.video.header import read_header
from tests.trainer.video.clips import box, grey_levels, patched, real_clip, write_clip

CUT = Cut(frames=7, least=7, fps=30, width=48, height=32)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", grey_levels(12), [33 * k for k in range(12)])


def _refused(path: Path) -> ClipError:
    with pytest.raises(ClipError) as caught:
        read_clip(path, CUT)
    return caught.value


def test_a_picture_of_65535_squared_is_refused(clip: Path) -> None:
    patched(clip, b"stsd", 40, struct.pack(">HH", 65535, 65535))
    error = _refused(clip)
    assert error.reason is ClipReason.TOO_LARGE
    assert str(error) == "claims 65535x65535 pixels, at most 37748736 of them are read"


def test_a_track_that_is_shown_at_65535_squared_is_refused(clip: Path) -> None:
    patched(clip, b"tkhd", 76, struct.pack(">II", 65535 << 16, 65535 << 16))
    assert _refused(clip).reason is ClipReason.TOO_LARGE


@pytest.mark.parametrize("where", [b"mdhd", b"mvhd"])
def test_ten_hours_are_refused(clip: Path, where: bytes) -> None:
    patched(clip, where, 12, struct.pack(">II", 1000, 36_000_000))
    error = _refused(clip)
    assert error.reason is ClipReason.TOO_LARGE
    assert str(error) == "claims 10.0 hours, at most 4 are read; cut it into shorter clips"


def test_a_length_that_is_not_known_is_none(clip: Path) -> None:
    patched(clip, b"mvhd", 16, b"\xff\xff\xff\xff")
    assert len(read_clip(clip, CUT).frames) == 7


@pytest.mark.parametrize(("where", "offset"), [(b"stsz", 8), (b"stts", 8)])
def test_a_billion_samples_are_refused_without_memory(clip: Path, where: bytes, offset: int) -> None:
    if where == b"stsz":
        patched(clip, where, 4, struct.pack(">I", 9))  # all of one size: no table is needed
    patched(clip, where, offset, struct.pack(">I", 1_000_000_000))
    tracemalloc.start()
    error = _refused(clip)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.reason is ClipReason.TOO_LARGE
    assert str(error) == "claims 1000000000 frames, at most 4000000 are read; cut it into shorter clips"
    assert peak < 2 << 20


def test_a_fragment_of_a_billion_samples_is_refused(clip: Path) -> None:
    run = box(b"trun", struct.pack(">III", 0, 1_000_000_000, 0))
    header = box(b"tfhd", struct.pack(">II", 0, 1))
    moof = box(b"moof", box(b"mfhd", bytes(8)), box(b"traf", header, run))
    clip.write_bytes(clip.read_bytes() + moof)
    assert _refused(clip).reason is ClipReason.TOO_LARGE


def test_an_index_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.mp4"
    path.write_bytes(box(b"ftyp", b"isom", bytes(4)) + struct.pack(">I4s", 1 << 30, b"moov") + bytes(64))
    assert _refused(path).reason is ClipReason.TOO_LARGE


def test_a_packed_index_does_not_unpack_without_end(tmp_path: Path) -> None:
    packed = box(b"cmvd", struct.pack(">I", 1 << 31), bytes(64))
    path = tmp_path / "packed.mov"
    path.write_bytes(box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), packed)))
    assert _refused(path).reason is ClipReason.TOO_LARGE


def test_sound_of_many_samples_is_no_reason(clip: Path) -> None:
    sound = box(
        b"trak",
        box(
            b"mdia",
            box(b"mdhd", struct.pack(">IIIIII", 0, 0, 0, 48000, 48000 * 3600, 0)),
            box(b"hdlr", bytes(8), b"soun", bytes(13)),
            box(b"minf", box(b"stbl", box(b"stts", struct.pack(">IIII", 0, 1, 172_800_000, 1)))),
        ),
    )
    data = clip.read_bytes()
    path = clip.with_name("sound.mp4")
    path.write_bytes(data + box(b"moov", sound))
    assert read_header(path, Limits()).tracks[-1].samples == 172_800_000


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("first", ["index", "frames"])
def test_a_file_that_was_cut_off_is_corrupt_and_not_too_short(
    tmp_path: Path, share: float, first: str
) -> None:
    data = real_clip("bikes.mp4").read_bytes()
    if first == "index":
        data = _index_first(data)
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ClipError) as caught:
        read_clip(path, Cut(frames=247, least=247, fps=25, width=112, height=64))
    assert caught.value.reason is ClipReason.CORRUPT
    assert "cut off" in str(caught.value)


def test_a_file_of_frames_without_end_that_was_cut_off_is_corrupt(tmp_path: Path) -> None:
    """The box of the frames goes "to the end of the file", so only the index tells."""
    data = bytearray(_index_first(real_clip("bikes.mp4").read_bytes()))
    start = data.index(b"mdat") - 4
    data[start : start + 4] = bytes(4)
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(ClipError, match="cut off") as caught:
        read_clip(path, Cut(frames=247, least=247, fps=25, width=112, height=64))
    assert caught.value.reason is ClipReason.CORRUPT


@pytest.mark.parametrize("tail", [b"SEFT" * 300, b"\x7f\xff\xff\xffjunk?", bytes(9), b"\xff" * 5000])
def test_what_hangs_behind_a_short_file_makes_it_not_cut_off(clip: Path, tail: bytes) -> None:
    clip.write_bytes(clip.read_bytes() + tail)
    with pytest.raises(ClipError) as caught:
        read_clip(clip, Cut(frames=50, least=50, fps=30, width=48, height=32))
    assert caught.value.reason is ClipReason.TOO_SHORT


def test_a_box_of_any_kind_may_come_first(clip: Path) -> None:
    data = clip.read_bytes()
    size = struct.unpack_from(">I", data)[0]
    clip.write_bytes(struct.pack(">I4s", size, b"beam") + data[8:])
    assert len(read_clip(clip, CUT).frames) == 7


def test_pictures_that_are_larger_than_their_header_says_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(real_clip("bikes.mp4").read_bytes())
    patched(path, b"stsd", 40, struct.pack(">HH", 16, 16))
    patched(path, b"tkhd", 76, struct.pack(">II", 16 << 16, 16 << 16))
    assert read_header(path, Limits()).tracks[0].width == 16
    with pytest.raises(ClipError) as caught:
        read_clip(path, CUT, Limits(pixels=100_000))
    assert caught.value.reason is ClipReason.TOO_LARGE
    assert str(caught.value) == "has 640x272 pixels, at most 100000 of them are read"


def test_what_is_needed_of_a_file_that_was_cut_off_is_read(tmp_path: Path) -> None:
    data = _index_first(real_clip("bikes.mp4").read_bytes())
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: len(data) // 2])
    assert len(read_clip(path, Cut(frames=13, least=13, fps=25, width=112, height=64)).frames) == 13


def _index_first(data: bytes) -> bytes:
    """The same file with `moov` before `mdat`, and the offsets of its chunks moved."""
    start = data.index(b"moov") - 4
    size = struct.unpack_from(">I", data, start)[0]
    moov = bytearray(data[start : start + size])
    first = data.index(b"mdat") - 4
    place = 0
    while (place := moov.find(b"stco", place + 1)) > 0:
        for entry in range(struct.unpack_from(">I", moov, place + 8)[0]):
            at = place + 12 + 4 * entry
            struct.pack_into(">I", moov, at, struct.unpack_from(">I", moov, at)[0] + size)
    return data[:first] + bytes(moov) + data[first:start] + data[start + size :]


@pytest.mark.parametrize(
    ("content", "reason", "said"),
    [
        (b"\x1aE\xdf\xa3" + bytes(100), ClipReason.UNSUPPORTED, "not MP4 or MOV but matroska or webm"),
        (b"RIFF\x00\x00\x00\x00AVI LIST" + bytes(100), ClipReason.UNSUPPORTED, "not MP4 or MOV but avi"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), ClipReason.NO_VIDEO_STREAM, "a PNG picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", ClipReason.CORRUPT, "a Git LFS pointer"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", ClipReason.CORRUPT, "cannot be read as MP4 or MOV"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", ClipReason.CORRUPT, "cannot be read as MP4 or MOV"),
        (bytes(5000), ClipReason.CORRUPT, "it begins with zeros"),
        (box(b"ftyp", b"isom", bytes(4)), ClipReason.CORRUPT, "it has no index (moov)"),
        (box(b"ftyp", b"heic", bytes(4)) + box(b"meta", bytes(40)), ClipReason.NO_VIDEO_STREAM, "HEIF"),
    ],
)
def test_what_is_no_mp4_or_mov_is_named_and_no_other_demuxer_sees_it(
    tmp_path: Path, content: bytes, reason: ClipReason, said: str
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    error = _refused(path)
    assert error.reason is reason
    assert said in str(error)
