"""What is written can be read: exactly where it must, everywhere where it should."""

from __future__ import annotations

import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mochi_trainer.video import (
    Cut,
    contact_sheet,
    encode_lossless,
    encode_mp4,
    probe,
    read_clip,
    read_frames,
    side_by_side,
    smaller,
    strip,
)
from tests.trainer.video.clips import quadrants, real_clip

SMALL = Cut(frames=13, least=13, fps=30, width=112, height=64)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return read_clip(real_clip("bigbuckbunny.mp4"), SMALL).frames


def test_trimmed_clips_lose_nothing(tmp_path: Path, frames: np.ndarray) -> None:
    encode_lossless(frames, tmp_path / "clip.mov", fps=30)
    assert np.array_equal(read_frames(tmp_path / "clip.mov"), frames)
    again = read_clip(tmp_path / "clip.mov", SMALL)
    assert np.array_equal(again.frames, frames)
    assert again.enlargement == 1


def test_trimmed_clips_do_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    cut = Cut(frames=7, least=7, fps=30, width=848, height=480)
    frames = read_clip(real_clip("bigbuckbunny.mp4"), cut).frames
    cores = os.sched_getaffinity(0)
    try:
        encode_lossless(frames, tmp_path / "all.mov", fps=30)
        os.sched_setaffinity(0, {min(cores)})
        encode_lossless(frames, tmp_path / "one.mov", fps=30)
    finally:
        os.sched_setaffinity(0, cores)
    assert (tmp_path / "all.mov").read_bytes() == (tmp_path / "one.mov").read_bytes()


@pytest.mark.parametrize(("width", "height"), [(2, 2), (7, 5), (16, 16), (849, 481), (3, 480)])
def test_trimmed_clips_lose_nothing_at_any_size(tmp_path: Path, width: int, height: int) -> None:
    frames = np.random.default_rng(width).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    encode_lossless(frames, tmp_path / "clip.mov", fps=30)
    assert np.array_equal(read_frames(tmp_path / "clip.mov"), frames)


def test_samples_play_everywhere(tmp_path: Path, frames: np.ndarray) -> None:
    path = tmp_path / "sample.mp4"
    encode_mp4(frames, path, fps=30)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert probe(path).fps == 30
    assert np.abs(read_frames(path).astype(int) - frames).mean() < 6


def test_colours_survive(tmp_path: Path) -> None:
    encode_mp4(np.stack([quadrants()] * 7), tmp_path / "colours.mp4", fps=30)
    seen = read_frames(tmp_path / "colours.mp4")[3]
    assert np.abs(seen[16, 24].astype(int) - [255, 0, 0]).max() < 12
    assert np.abs(seen[16, 72].astype(int) - [0, 255, 0]).max() < 12
    assert np.abs(seen[48, 72].astype(int) - [0, 0, 255]).max() < 12


def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even width and height, got 47x32"):
        encode_mp4(np.zeros((2, 32, 47, 3), np.uint8), tmp_path / "odd.mp4", fps=30)


def test_a_contact_sheet_holds_first_and_last_frame(frames: np.ndarray) -> None:
    with Image.open(io.BytesIO(contact_sheet(frames, 4))) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 64 + 4, 4 * 112 + 3 * 4, 3)
    assert np.array_equal(sheet[:64, :112], frames[0])
    assert np.array_equal(sheet[-64:, -112:], frames[-1])


def test_a_comparison_has_the_original_above(frames: np.ndarray) -> None:
    with Image.open(io.BytesIO(side_by_side(frames, 255 - frames))) as image:
        sheet = np.asarray(image)
    assert np.array_equal(sheet[:64, :112], frames[0])
    assert np.array_equal(sheet[-64:, :112], 255 - frames[0])


def test_pictures_for_the_page_are_small(frames: np.ndarray) -> None:
    for data in (strip(frames, 3, width=200), smaller(contact_sheet(frames, 4), width=200)):
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.width) == ("JPEG", 200)
    with pytest.raises(ValueError, match="not a picture"):
        smaller(b"text", width=10)
