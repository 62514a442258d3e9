"""Interlaced material of which only the container says so (`fiel`), and what counts where container and frames differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mochi_api.clips import ClipWarning
from mochi_trainer.video import Clip, Cut, read_clip
from tests.trainer.video.boxed import joined
from tests.trainer.video.clips import box, in_description
from tests.trainer.video.movies import frame_of, write_movie
from tests.trainer.video.test_containers import combing, woven

HEIGHT, WIDTH = 64, 128
CUT = Cut(frames=8, least=8, fps=30, width=WIDTH, height=HEIGHT)
PROGRESSIVE, TOP, BOTTOM = b"\1\0", b"\2\1", b"\2\6"
FIRST_LINE_EARLY, FIRST_LINE_LATE, SOME_ORDER = b"\2\x09", b"\2\x0e", b"\2\0"
PLACES = [(TOP, 8), (BOTTOM, 12), (FIRST_LINE_EARLY, 8), (FIRST_LINE_LATE, 12), (SOME_ORDER, 8)]
"""With the place of the bar in the field that comes first."""

CODECS = {
    "rawvideo": "uyvy422",
    "v210": "yuv422p10le",
    "prores_ks": "yuv422p10le",
    "mjpeg": "yuvj422p",
    "qtrle": "rgb24",
    "png": "rgb24",
}


def packed(luma: np.ndarray, pixels: str) -> list[np.ndarray]:
    """Planes of a grey picture in another form."""
    if pixels == "rgb24":
        return [np.repeat(luma[..., None], 3, axis=2)]
    if pixels == "uyvy422":
        return [np.stack([np.full_like(luma, 128), luma], axis=-1)]
    kind, unit = (np.uint16, 4) if "10" in pixels else (np.uint8, 1)
    chroma = np.full((HEIGHT, WIDTH // 2), 128 * unit, kind)
    return [luma.astype(kind) * unit, chroma, chroma]


def bars(path: Path, codec: str, fiel: bytes | None) -> Path:
    """A bar that moves by 4 pixels a field, in frames that nothing marks as interlaced; and what the container says."""
    frames = []
    for number in range(10):
        luma = np.full((HEIGHT, WIDTH), 40, np.uint8)
        for field in (0, 1):
            left = 8 + 8 * number + 4 * field
            luma[field::2, left : left + 16] = 200
        frames.append(frame_of(packed(luma, CODECS[codec]), CODECS[codec]))
    write_movie(path, frames, codec=codec)
    return path if fiel is None else in_description(path, box(b"fiel", fiel))


def first_fields(clip: Clip, place: int) -> None:
    assert list(clip.warnings) == [ClipWarning.DEINTERLACED]
    for number, picture in enumerate(clip.frames):
        bright = np.flatnonzero(picture[32, :, 1] > 128)
        assert abs(bright.min() - place - 8 * number) <= 1
        assert abs(bright.max() - place - 8 * number - 15) <= 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("fiel", "place"), PLACES)
def test_the_word_of_the_container_is_enough(tmp_path: Path, codec: str, fiel: bytes, place: int) -> None:
    clip = read_clip(bars(tmp_path / "a.mov", codec, fiel), CUT)
    as_it_is = read_clip(bars(tmp_path / "b.mov", codec, PROGRESSIVE), CUT)
    first_fields(clip, place)
    assert combing(clip.frames) < combing(as_it_is.frames) / 4


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("fiel", [PROGRESSIVE, b"\0\0", b"\3\1"])
def test_what_is_progressive_or_says_nothing_that_is_known_stays_as_it_is(
    tmp_path: Path, codec: str, fiel: bytes
) -> None:
    clip = read_clip(bars(tmp_path / "a.mov", codec, fiel), CUT)
    assert clip.warnings == {}
    assert np.array_equal(clip.frames, read_clip(bars(tmp_path / "b.mov", codec, PROGRESSIVE), CUT).frames)


@pytest.mark.parametrize(("first", "place"), [("tff", 8), ("bff", 12)])
@pytest.mark.parametrize("fiel", [PROGRESSIVE, TOP, BOTTOM])
def test_frames_of_h264_count_more_than_the_container(
    tmp_path: Path, first: str, place: int, fiel: bytes
) -> None:
    """It says it frame by frame; the container may be that of another program."""
    first_fields(read_clip(in_description(woven(tmp_path / "a.mov", first), box(b"fiel", fiel)), CUT), place)


@pytest.mark.parametrize("fiel", [TOP, BOTTOM])
def test_progressive_frames_of_h264_stay_as_they_are(tmp_path: Path, fiel: bytes) -> None:
    clip = read_clip(in_description(woven(tmp_path / "a.mov", None), box(b"fiel", fiel)), CUT)
    assert clip.warnings == {}
    assert np.array_equal(clip.frames, read_clip(woven(tmp_path / "b.mov", None), CUT).frames)


def test_segments_of_one_frame_carry_the_pictures_of_the_film(tmp_path: Path) -> None:
    """A word of the container holds wherever reading begins."""
    path = bars(tmp_path / "a.mov", "v210", BOTTOM)
    late = Cut(frames=4, least=4, fps=30, width=WIDTH, height=HEIGHT, start_seconds=4 / 30)
    assert np.array_equal(read_clip(path, late).frames, read_clip(path, CUT).frames[4:])


@pytest.mark.parametrize("second", ["larger", "of another form", "larger and progressive"])
def test_interlaced_pictures_may_change_their_size_and_form_midway(tmp_path: Path, second: str) -> None:
    """A track with two sample descriptions, as cameras and editors leave it."""
    woven(tmp_path / "1.mov", "tff")
    scale, pixels = (1, "yuv422p") if second == "of another form" else (2, "yuv420p")
    height, width = HEIGHT * scale, WIDTH * scale
    chroma = np.full((height if pixels == "yuv422p" else height // 2, width // 2), 128, np.uint8)
    levels = [np.full((height, width), 20 + 20 * number, np.uint8) for number in range(10)]
    write_movie(
        tmp_path / "2.mov",
        [frame_of([luma, chroma, chroma], pixels) for luma in levels],
        matrix=1,
        options=None if "progressive" in second else {"x264-params": "tff=1"},
    )
    path = joined(tmp_path / "a.mov", tmp_path / "1.mov", tmp_path / "2.mov")
    clip = read_clip(path, Cut(frames=20, least=20, fps=30, width=WIDTH, height=HEIGHT))
    first_fields(Clip(frames=clip.frames[:8], enlargement=1, warnings=clip.warnings, source=clip.source), 8)
    expected = [(20 + 20 * number - 16) * 255 / 219 for number in range(10)]
    assert np.abs(clip.frames[10:].mean((1, 2, 3)) - expected).max() < 1
