"""Clips of every kind become frames, or a reason in words."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from mochi_trainer.errors import ClipError
from mochi_trainer.video import Clip, Cut, probe, read_clip
from tests.trainer.video.clips import grey_levels, quadrants, real_clip, turn_clockwise, write_clip

SMALL = {"fps": 30, "width": 112, "height": 64}


def _read(path: Path, **cut: float) -> Clip:
    return read_clip(path, Cut(**cut))


def _levels(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / 8) for frame in frames]


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"])
def test_real_clips_are_read_at_the_size_and_rate_of_training(name: str) -> None:
    clip = _read(real_clip(name), frames=13, least=13, **SMALL)
    frames = clip.frames
    assert frames.shape == (13, 64, 112, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 10
    assert clip.enlargement < 1
    assert clip.warnings == {}


def test_a_probe_says_what_is_in_the_file() -> None:
    found = probe(real_clip("bikes.mp4"))
    assert (found.width, found.height, found.fps, found.seconds, found.codec) == (
        640,
        272,
        25.0,
        10.0,
        "h264",
    )


def test_a_variable_frame_rate_follows_the_clock(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "vfr.mp4", grey_levels(4), [0, 100, 500, 600])
    frames = _read(clip, frames=7, least=7, fps=10, width=48, height=32).frames
    assert _levels(frames) == [0, 1, 1, 1, 1, 2, 3]


def test_a_clip_turned_by_the_phone_is_upright(tmp_path: Path) -> None:
    pictures = np.stack([quadrants()] * 8)
    clip = turn_clockwise(
        write_clip(tmp_path / "phone.mov", pictures, [33 * k for k in range(8)], container_format="mov")
    )
    frames = _read(clip, frames=7, least=7, fps=30, width=64, height=96).frames
    corners = [frames[0][y, x].tolist() for y, x in ((8, 8), (8, -8), (-8, -8), (-8, 8))]
    bright = [[value > 128 for value in corner] for corner in corners]
    white, red, green, blue = [True] * 3, [True, False, False], [False, True, False], [False, False, True]
    assert bright == [white, red, green, blue]


def test_a_short_clip_names_both_lengths(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "short.mp4", grey_levels(10), [33 * k for k in range(10)])
    with pytest.raises(ClipError, match=r"13 frames at 30 fps take 0\.43 s, the clip has 10 \(0\.33 s\)"):
        _read(clip, frames=13, least=13, **SMALL)
    assert len(_read(clip, frames=13, least=7, **SMALL).frames) == 10


def test_another_container_comes_with_the_command_that_converts_it(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "my clip.mp4", grey_levels(3), [0, 33, 66], container_format="matroska")
    with pytest.raises(ClipError, match=r'not MP4 or MOV but matroska.*ffmpeg -i "my clip\.mp4".*'):
        _read(clip, frames=3, least=3, **SMALL)


def test_a_file_without_video_says_so(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ClipError, match="no video stream"):
        _read(path, frames=3, least=3, **SMALL)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"hello " * 500, "cannot be read as MP4 or MOV: invalid data"),
    ],
)
def test_a_file_that_is_no_video_says_so(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(ClipError, match=reason):
        _read(tmp_path / "broken.mp4", frames=3, least=3, **SMALL)


def test_a_download_that_was_cut_off_says_so(tmp_path: Path) -> None:
    data = real_clip("bikes.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(ClipError):
        _read(tmp_path / "half.mp4", frames=200, least=200, fps=25, width=112, height=64)


def test_damage_in_the_middle_is_told_with_its_time_and_only_where_it_is_needed(tmp_path: Path) -> None:
    data = bytearray(real_clip("bikes.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(ClipError, match=r"damaged after 4\.\d\d s"):
        _read(tmp_path / "damaged.mp4", frames=199, least=199, fps=25, width=112, height=64)
    assert len(_read(tmp_path / "damaged.mp4", frames=13, least=13, **SMALL).frames) == 13
