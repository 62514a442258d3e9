"""What lies in a file beside the pictures is no hindrance: covers, tags, odd names; interlacing is undone."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph
from PIL import Image

from mochi_api.clips import ClipReason, ClipWarning
from mochi_trainer.errors import ClipError
from mochi_trainer.video import Cut, probe, read_clip
from tests.trainer.video.boxed import boxes
from tests.trainer.video.clips import box, grey_levels, patched, with_edits, write_clip
from tests.trainer.video.movies import frame_of, write_movie

CUT = Cut(frames=7, least=7, fps=30, width=48, height=32)
TIMES = [33 * k for k in range(8)]


def levels(path: Path) -> list[int]:
    return [round(float(frame.mean()) / 8) for frame in read_clip(path, CUT).frames]


def with_cover(path: Path, *, first: bool, moving: bool = True) -> Path:
    """A clip with an attached picture, before or behind the video."""
    picture = io.BytesIO()
    Image.new("RGB", (200, 200), (255, 0, 0)).save(picture, "PNG")
    data = box(b"data", b"\x00\x00\x00\x0e", bytes(4), picture.getvalue())
    tags = box(b"ilst", box(b"covr", data))
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    cover = box(b"udta", box(b"meta", bytes(4), handler, tags))
    write_clip(path, grey_levels(8), TIMES)
    content = path.read_bytes()
    start = content.index(b"moov") - 4
    assert content.index(b"mdat") < start
    size = int.from_bytes(content[start : start + 4], "big")
    moov = content[start + 8 : start + size]
    kinds = boxes(moov)
    kept = [part for kind, part in kinds if kind != b"udta" and (moving or kind != b"trak")]
    head, tracks = kept[:1], kept[1:]
    inside = [*head, cover, *tracks] if first else [*head, *tracks, cover]
    path.write_bytes(content[:start] + box(b"moov", *inside))
    return path


@pytest.mark.parametrize("first", [True, False])
def test_a_cover_is_not_the_video(tmp_path: Path, first: bool) -> None:
    path = with_cover(tmp_path / "clip.mp4", first=first)
    with av.open(str(path)) as container:
        assert [stream.codec_context.name for stream in container.streams.video].index("png") == (not first)
    assert levels(path) == [0, 1, 2, 3, 4, 5, 6]
    assert (probe(path).width, probe(path).codec) == (48, "h264")


def test_a_cover_alone_is_no_video(tmp_path: Path) -> None:
    path = with_cover(tmp_path / "clip.m4a", first=True, moving=False)
    with pytest.raises(ClipError, match="no video stream") as caught:
        read_clip(path, CUT)
    assert caught.value.reason is ClipReason.NO_VIDEO_STREAM


@pytest.mark.parametrize(
    ("first_on", "second_on", "expected"),
    [(True, True, [0, 1, 2, 3, 4, 5, 6]), (True, False, [25] * 7), (False, True, [0, 1, 2, 3, 4, 5, 6])],
)
def test_of_two_videos_the_one_that_is_on_and_the_larger_of_both(
    tmp_path: Path, first_on: bool, second_on: bool, expected: list[int]
) -> None:
    path = two_videos(tmp_path / "two.mp4")
    data = bytearray(path.read_bytes())
    first = data.index(b"tkhd")
    for place, on in ((first, first_on), (data.index(b"tkhd", first + 1), second_on)):
        data[place + 7] = 3 if on else 2
    path.write_bytes(data)
    assert levels(path) == expected


def test_of_two_tracks_with_one_number_each_has_its_own_edits(tmp_path: Path) -> None:
    path = with_edits(two_videos(tmp_path / "two.mp4"), [(100, 100, 1.0)])
    data = bytearray(path.read_bytes())
    second = data.index(b"tkhd", data.index(b"tkhd") + 1)
    data[second + 7], data[second + 19] = 3, 1
    path.write_bytes(data)
    assert levels(path) == [0, 1, 2, 3, 4, 5, 6]


def two_videos(path: Path) -> Path:
    """A small one, first and grey, and a larger one of grey levels."""
    with av.open(str(path), "w", format="mp4") as container:
        streams = []
        for width, height in ((24, 16), (48, 32)):
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for number in range(8):
            for stream, level in zip(streams, (200, 8 * number), strict=True):
                picture = np.full((stream.height, stream.width, 3), level, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "tag",
    [
        "café été".encode("latin-1"),
        "Видеообработка".encode("cp1251"),
        b"\xff\xfe\x00\xd8",
        bytes(range(128, 160)),
    ],
)
@pytest.mark.parametrize("where", ["title", "handler"])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "m4v"])
def test_tags_may_be_of_any_encoding(tmp_path: Path, tag: bytes, where: str, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    kind = "mov" if suffix == "mov" else "mp4"
    mark = b"MARK" * 16
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.options = 48, 32, {"qp": "1", "preset": "ultrafast"}
        container.metadata["title"] = mark.decode()
        stream.metadata["handler_name"] = mark.decode()
        for number, picture in enumerate(grey_levels(8)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    places = [place for place in range(len(data)) if data.startswith(mark, place)]
    assert len(places) >= 2
    kept = max if where == "handler" else min
    place = kept(places) if data.find(b"udta") < data.find(b"hdlr") else (min if kept is max else max)(places)
    path.write_bytes(data[:place] + tag.ljust(len(mark)) + data[place + len(mark) :])
    assert levels(path) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "name", [b"\xff\xe9.mp4", b"a%20b.MP4", "é.mp4".encode(), b"http:x.mov", b"a\nb.m4v", b"-i.mp4"]
)
def test_files_may_have_any_name(tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / os.fsdecode(name)
    write_clip(tmp_path / "clip.mp4", grey_levels(8), TIMES).rename(path)
    assert levels(path) == [0, 1, 2, 3, 4, 5, 6]
    monkeypatch.chdir(tmp_path)
    assert levels(Path(os.fsdecode(name))) == [0, 1, 2, 3, 4, 5, 6]


def test_a_codec_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = patched(write_clip(tmp_path / "clip.mp4", grey_levels(8), TIMES), b"stsd", 12, b"xyz1")
    with pytest.raises(ClipError, match="its codec 'xyz1' is not read") as caught:
        read_clip(path, CUT)
    assert caught.value.reason is ClipReason.UNSUPPORTED
    assert "ffmpeg" not in str(caught.value)


def test_another_file_named_in_a_file_is_not_opened(tmp_path: Path) -> None:
    """A MOV can refer to media in another file; libav must not follow."""
    write_clip(tmp_path / "other.mp4", grey_levels(8), TIMES)
    path = write_clip(tmp_path / "clip.mov", grey_levels(8), TIMES, container_format="mov")
    data = path.read_bytes().replace(b"url \x00\x00\x00\x01", b"url \x00\x00\x00\x00")
    path.write_bytes(data[: data.index(b"mdat") + 4] + bytes(len(data) - data.index(b"mdat") - 4))
    with pytest.raises(ClipError):
        read_clip(path, CUT)


def woven(path: Path, first: str | None) -> Path:
    """A bar that moves by 4 pixels a field: in the upper fields at 8 + 8 k, in the lower ones 4 further.

    `first` says which fields come first (`tff`, `bff`); None: nothing says that it is interlaced.
    """
    height, width = 64, 128
    frames = []
    for number in range(10):
        luma = np.full((height, width), 40, np.uint8)
        for field in (0, 1):
            left = 8 + 8 * number + 4 * field
            luma[field::2, left : left + 16] = 200
        chroma = np.full((height // 2, width // 2), 128, np.uint8)
        frames.append(frame_of([luma, chroma, chroma], "yuv420p"))
    if first is None:
        return write_movie(path, frames, matrix=1)
    marked = Graph()
    source = marked.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 30))
    field, sink = marked.add("setfield", mode=first), marked.add("buffersink")
    source.link_to(field)
    field.link_to(sink)
    marked.configure()
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = number, Fraction(1, 30)
        marked.vpush(frame)
        frames[number] = marked.vpull()
    return write_movie(path, frames, matrix=1, options={"x264-params": "tff=1"})


def combing(frames: np.ndarray) -> float:
    """How much lines differ from those above and below, where these agree."""
    grey = frames[..., 1].astype(int)
    return float(np.abs(2 * grey[:, 1:-1] - grey[:, :-2] - grey[:, 2:]).mean())


WOVEN = Cut(frames=8, least=8, fps=30, width=128, height=64)


@pytest.mark.parametrize(("first", "place"), [("tff", 8), ("bff", 12)])
def test_interlaced_clips_show_their_first_fields(tmp_path: Path, first: str, place: int) -> None:
    clip = read_clip(woven(tmp_path / "i.mp4", first), WOVEN)
    assert list(clip.warnings) == [ClipWarning.DEINTERLACED]
    as_it_is = read_clip(woven(tmp_path / "p.mp4", None), WOVEN)
    assert as_it_is.warnings == {}
    assert combing(clip.frames) < combing(as_it_is.frames) / 5
    for number, picture in enumerate(clip.frames):
        bright = np.flatnonzero(picture[32, :, 1] > 128)
        assert abs(bright.min() - place - 8 * number) <= 1
        assert abs(bright.max() - place - 8 * number - 15) <= 1


def test_interlaced_material_keeps_its_times_and_its_end(tmp_path: Path) -> None:
    path = woven(tmp_path / "i.mp4", "tff")
    assert len(read_clip(path, Cut(frames=99, least=1, fps=30, width=128, height=64)).frames) == 10
