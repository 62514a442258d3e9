"""Warnings about pictures: said where they hold, and not of clips that are only near to it."""

from __future__ import annotations

import numpy as np
import pytest

from mochi_api.clips import ClipWarning
from mochi_trainer.footage.bars import Box, picture_box
from mochi_trainer.footage.likeness import luma
from mochi_trainer.footage.quality import picture_warnings
from tests.trainer.footage.material import decoded, texture

ROWS, COLUMNS, LENGTH = 240, 424, 37


def clip(name: str = "bikes.mp4", start: int = 80) -> np.ndarray:
    """(37, 240, 424, 3) of real footage."""
    return decoded(name, ROWS, COLUMNS)[start : start + LENGTH].copy()


def kinds(frames: np.ndarray) -> list[ClipWarning]:
    return [warning.kind for warning in picture_warnings(frames)]


def noisy(frames: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(frames + rng.normal(0, sigma, frames.shape), 0, 255).astype(np.uint8)


def night(lights: int = 12) -> np.ndarray:
    """A street at night: the clip at a fifteenth of its light, and lamps of 6 x 6 pixels."""
    frames = clip() // 15
    rng = np.random.default_rng(2)
    for top, left in rng.integers((60, 0), (ROWS - 6, COLUMNS - 6), (lights, 2)):
        frames[:, top : top + 6, left : left + 6] = (255, 220, 160)
    return frames


def titled(frames: np.ndarray) -> np.ndarray:
    """With two lines of letters, drawn as strokes."""
    out = frames.copy()
    for line in (110, 128):
        for left in range(130, 290, 8):
            out[:, line : line + 10, left : left + 3] = 230
    return out


def letterbox(frames: np.ndarray, size: int = 30, level: int = 0) -> np.ndarray:
    out = frames.copy()
    out[:, :size] = out[:, -size:] = level
    return out


def pillarbox(frames: np.ndarray, size: int = 145, level: int = 0) -> np.ndarray:
    return letterbox(frames.transpose(0, 2, 1, 3), size, level).transpose(0, 2, 1, 3)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("bikes.mp4", 32),
        ("bikes.mp4", 80),
        ("bikes.mp4", 140),
        ("bikes.mp4", 190),
        ("bigbuckbunny.mp4", 0),
        ("bigbuckbunny.mp4", 90),
        ("carphone_pristine.mp4", 0),
        ("carphone_distorted.mp4", 60),
    ],
)
def test_real_footage_has_no_warning(name: str, start: int) -> None:
    assert kinds(clip(name, start)) == []


def test_an_underexposed_clip_is_dark() -> None:
    (warning,) = picture_warnings(clip() // 12)
    assert warning.kind is ClipWarning.DARK
    assert warning.message == (
        "nearly black: 0.00% of the picture is brighter than level 32 of 255 in half of the frames, "
        "at least 0.5% is usual even at night"
    )


def test_a_dark_clip_full_of_grain_is_dark() -> None:
    assert kinds(noisy(clip() // 20, 12)) == [ClipWarning.DARK]


@pytest.mark.parametrize("sigma", [0, 6])
def test_lights_at_night_are_enough(sigma: float) -> None:
    assert kinds(noisy(night(), sigma)) == []


def test_a_dark_film_with_a_title_is_neither_dark_nor_barred() -> None:
    assert kinds(titled(clip() // 8)) == []


def test_black_at_the_start_only_is_not_dark() -> None:
    frames = clip()
    frames[:8] = 0
    assert kinds(frames) == []


def test_a_film_that_goes_dark_after_a_bright_start_is() -> None:
    frames = clip()
    frames[8:] //= 16
    assert kinds(frames) == [ClipWarning.DARK]


@pytest.mark.parametrize("sigma", [0, 4, 12])
def test_a_still_picture_is_static_under_any_grain(sigma: float) -> None:
    (warning,) = picture_warnings(noisy(np.repeat(clip()[:1], LENGTH, 0), sigma))
    assert warning.kind is ClipWarning.STATIC
    assert warning.message.startswith("nothing moves: 0.")
    assert "of 255 levels over the clip, at least 0.1% is usual" in warning.message


def test_a_slow_pan_is_not_static() -> None:
    wide = texture(np.random.default_rng(8), ROWS, COLUMNS + 8)
    positions = np.linspace(0, 4, LENGTH)
    frames = np.stack([_shifted(wide, at) for at in positions])
    assert kinds(frames) == []


def _shifted(wide: np.ndarray, at: float) -> np.ndarray:
    whole, part = int(at), at - int(at)
    left, right = wide[:, whole : whole + COLUMNS], wide[:, whole + 1 : whole + 1 + COLUMNS]
    return ((1 - part) * left + part * right).astype(np.uint8)


def test_a_bird_that_crosses_a_still_sky_is_not_static() -> None:
    frames = noisy(np.full((LENGTH, ROWS, COLUMNS, 3), 170, np.uint8), 3)
    for k in range(LENGTH):
        frames[k, 60:64, 20 + 8 * k : 26 + 8 * k] = 60
    assert kinds(frames) == []


def test_water_that_moves_everywhere_is_not_static() -> None:
    rng = np.random.default_rng(3)
    assert kinds(np.stack([texture(rng, ROWS, COLUMNS) for _ in range(LENGTH)])) == []


def test_a_single_frame_is_not_called_static() -> None:
    assert kinds(clip()[:1]) == []


@pytest.mark.parametrize("level", [0, 16])
def test_a_letterbox_is_told_with_its_picture(level: int) -> None:
    (warning,) = picture_warnings(letterbox(clip(), 30, level))
    assert warning.kind is ClipWarning.BLACK_BARS
    assert warning.message == (
        "black bars (above and below) all the time: the picture is 424x180 at (0, 30) of 424x240, "
        "bars count from 2% of a side on; "
        "ffmpeg -vf crop=424:180:0:30 takes them off"
    )


def boxed(frames: np.ndarray) -> Box:
    return picture_box(luma(frames).mean(0))


def test_a_pillarbox_of_an_upright_clip_is_found() -> None:
    assert kinds(pillarbox(clip())) == [ClipWarning.BLACK_BARS]
    assert boxed(pillarbox(clip())) == Box(145, 0, 279, 240)


def test_bars_all_around_are_found() -> None:
    assert boxed(letterbox(pillarbox(clip(), 60), 36)) == Box(60, 36, 364, 204)


def test_a_bar_at_the_bottom_alone_is_found() -> None:
    frames = clip("bigbuckbunny.mp4", 60)
    frames[:, -24:] = 0
    assert boxed(frames) == Box(0, 0, 424, 216)


def test_dithered_and_noisy_bars_are_found() -> None:
    frames = letterbox(clip())
    frames[:, ::2, ::2] = np.maximum(frames[:, ::2, ::2], 8)
    assert kinds(noisy(frames, 5)) == [ClipWarning.BLACK_BARS]
    assert boxed(noisy(frames, 5)) == Box(0, 30, 424, 210)


def test_bars_with_a_subtitle_in_them_are_found() -> None:
    frames = letterbox(clip(), 40)
    for left in range(120, 300, 9):
        frames[:, 210:222, left : left + 3] = 235
    assert boxed(frames) == Box(0, 40, 424, 200)


def test_bars_of_a_dark_film_are_found() -> None:
    assert boxed(letterbox(clip() // 2, 40)) == Box(0, 40, 424, 200)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(night(), id="a night sky"),
        pytest.param(titled(clip() // 8), id="a dark film with a title"),
        pytest.param(titled(np.zeros((3, ROWS, COLUMNS, 3), np.uint8)), id="a title on black"),
        pytest.param(letterbox(clip(), 3), id="a few black lines of the codec"),
        pytest.param(np.zeros((3, ROWS, COLUMNS, 3), np.uint8), id="nothing"),
    ],
)
def test_what_is_only_black_somewhere_has_no_bars(frames: np.ndarray) -> None:
    assert boxed(frames) == Box(0, 0, COLUMNS, ROWS)


def test_bars_in_the_first_frames_only_are_none() -> None:
    frames = clip()
    frames[:6] = letterbox(frames[:6])
    assert kinds(frames) == []


def test_somebody_before_a_black_wall_has_no_bars() -> None:
    frames = np.full((LENGTH, ROWS, COLUMNS, 3), 3, np.uint8)
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    body = ((rows - 150) / 110) ** 2 + ((columns - 212) / 60) ** 2 < 1
    frames[:, body] = clip()[:, body]
    assert kinds(frames) == []
