"""PSNR and SSIM: against a slow literal reading of the paper, and the laws that both keep."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from mochi_trainer.likeness import Frames, psnr, ssim
from mochi_trainer.video import Cut, read_clip
from tests.trainer.video.clips import real_clip


def literal_ssim(original: Frames, copy: Frames) -> float:
    """Wang et al. 2004, equations 13 to 17, one window after another, sums written out."""
    window = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    total = sum(map(sum, window))
    w = np.array(window) / total
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for rgb_x, rgb_y in zip(original.astype(np.float64), copy.astype(np.float64), strict=True):
        planes = [0.2126 * p[..., 0] + 0.7152 * p[..., 1] + 0.0722 * p[..., 2] for p in (rgb_x, rgb_y)]
        height, width = planes[0].shape
        for top in range(height - 10):
            for left in range(width - 10):
                x, y = (p[top : top + 11, left : left + 11] for p in planes)
                mu_x, mu_y = (w * x).sum(), (w * y).sum()
                var_x, var_y = (w * (x - mu_x) ** 2).sum(), (w * (y - mu_y) ** 2).sum()
                cov = (w * (x - mu_x) * (y - mu_y)).sum()
                values.append(
                    (2 * mu_x * mu_y + c1)
                    * (2 * cov + c2)
                    / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
                )
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def bikes() -> Frames:
    return read_clip(real_clip("bikes.mp4"), Cut(frames=3, least=3, fps=30, width=96, height=64)).frames


def noisy(frames: Frames, sigma: float, seed: int = 0) -> Frames:
    noise = np.random.default_rng(seed).normal(0, sigma, frames.shape)
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


def blurred(frames: Frames, radius: float) -> Frames:
    return np.stack([np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(radius))) for f in frames])


@pytest.mark.parametrize(
    "change",
    [lambda f: noisy(f, 12), lambda f: blurred(f, 2), lambda f: 255 - f, lambda f: np.roll(f, 3, axis=2)],
    ids=["noise", "blur", "negative", "shifted"],
)
def test_ssim_is_the_papers_on_a_real_clip(bikes: Frames, change) -> None:
    assert ssim(bikes, change(bikes)) == pytest.approx(literal_ssim(bikes, change(bikes)), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(11, 15), st.integers(11, 15), st.integers(0, 2**32 - 1))
def test_ssim_is_the_papers_on_any_pixels(count: int, height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 256, (2, count, height, width, 3), dtype=np.uint8)
    assert ssim(first, second) == pytest.approx(literal_ssim(first, second), abs=1e-6)
    assert ssim(first, second) == pytest.approx(ssim(second, first), abs=1e-12)
    assert -1 <= ssim(first, second) < 1


@pytest.mark.parametrize("level", [0, 1, 255])
def test_equal_videos_have_the_highest_scores_also_where_nothing_is_in_them(
    bikes: Frames, level: int
) -> None:
    for frames in (bikes, np.full((2, 16, 16, 3), level, np.uint8)):
        assert ssim(frames, frames) == pytest.approx(1, abs=1e-9)
        assert psnr(frames, frames) == 99


def test_both_fall_with_noise_and_with_blur(bikes: Frames) -> None:
    for measure in (psnr, ssim):
        noise = [measure(bikes, noisy(bikes, sigma)) for sigma in (0, 2, 8, 32, 128)]
        blur = [measure(bikes, blurred(bikes, radius)) for radius in (0, 1, 2, 4, 8)]
        assert noise == sorted(noise, reverse=True)
        assert blur == sorted(blur, reverse=True)


def test_ssim_sees_a_lost_structure_where_psnr_sees_a_light_change(bikes: Frames) -> None:
    """The paper's point (its figure 2): of two copies with the same error the blurred one is the worse."""
    brighter = np.clip(bikes.astype(int) + 12, 0, 255).astype(np.uint8)
    softer = next(
        copy for radius in np.arange(0.5, 9, 0.1)
        if psnr(bikes, copy := blurred(bikes, float(radius))) <= psnr(bikes, brighter)
    )  # fmt: skip
    assert psnr(bikes, softer) == pytest.approx(psnr(bikes, brighter), abs=0.5)
    assert ssim(bikes, brighter) > ssim(bikes, softer) + 0.05


def test_psnr_of_a_known_error(bikes: Frames) -> None:
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    assert psnr(frames, frames + 1) == pytest.approx(10 * math.log10(255**2), abs=1e-6)
    half = frames.copy()
    half[::2] += 2
    assert psnr(frames, half) == pytest.approx(10 * math.log10(255**2 / 2), abs=1e-6)


def test_the_score_of_a_video_is_the_mean_of_its_frames(bikes: Frames) -> None:
    copy = np.stack([bikes[0], noisy(bikes[1:2], 40)[0], bikes[2]])
    assert ssim(bikes, copy) == pytest.approx(np.mean([1, ssim(bikes[1:2], copy[1:2]), 1]), abs=1e-9)


def test_a_picture_smaller_than_the_window_is_refused() -> None:
    frames = np.zeros((1, 10, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 11x11, got 64x10"):
        ssim(frames, frames)


def test_memory_is_that_of_frames_not_of_the_video() -> None:
    frames = np.zeros((64, 64, 64, 3), np.uint8)
    tracemalloc.start()
    psnr(frames, frames), ssim(frames, frames)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 15 * 64 * 64 * 8 + (1 << 16)
