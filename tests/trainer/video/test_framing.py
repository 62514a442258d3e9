"""Pictures are cut in the centre and scaled without distortion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_trainer.video import framing

sizes = st.integers(16, 4000)


@given(sizes, sizes, sizes, sizes, st.floats(0.5, 2.0))
def test_the_box_is_centred_inside_and_keeps_the_aspect(
    w: int, h: int, width: int, height: int, aspect: float
) -> None:
    box = framing(w, h, width, height, pixel_aspect=aspect)
    assert box.left >= -1e-6
    assert box.right <= w + 1e-6
    assert box.top >= -1e-6
    assert box.bottom <= h + 1e-6
    assert box.left == pytest.approx(w - box.right, abs=1e-6)
    assert box.top == pytest.approx(h - box.bottom, abs=1e-6)
    shown = (box.right - box.left) * aspect / (box.bottom - box.top)
    assert shown == pytest.approx(width / height, rel=1e-6)
    assert box.right - box.left == pytest.approx(w) or box.bottom - box.top == pytest.approx(h)


def test_wide_clips_lose_their_sides() -> None:
    picture = np.zeros((64, 256, 3), np.uint8)
    picture[:, 96:160] = 255
    assert (framing(256, 64, 32, 32).apply(picture)[:, 2:-2] == 255).all()
    assert (framing(256, 64, 128, 32).apply(picture)[:, 2:46] == 0).all()


@pytest.mark.parametrize(("crop", "left"), [(0.0, 0.0), (0.5, 96.0), (1.0, 192.0), (0.25, 48.0)])
def test_the_window_can_lie_elsewhere_in_what_is_left_over(crop: float, left: float) -> None:
    box = framing(256, 64, 32, 32, crop_x=crop, crop_y=0.9)
    assert (box.left, box.right, box.top, box.bottom) == (left, left + 64, 0, 64)
    box = framing(64, 256, 32, 32, crop_y=crop, crop_x=0.9)
    assert (box.top, box.bottom, box.left, box.right) == (left, left + 64, 0, 64)


def test_planes_are_scaled_like_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    box = framing(90, 60, 32, 32)
    whole = box.apply(picture)
    assert np.array_equal(whole, np.stack([box.apply(picture[..., k]) for k in range(3)], axis=-1))
    deep = box.apply(picture[..., 0].astype(np.uint16) * 257) / 257
    assert np.abs(deep - whole[..., 0]).max() <= 1.01


def test_shrinking_averages_instead_of_skipping() -> None:
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    picture = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    small = framing(64, 64, 16, 16).apply(picture)
    assert small[2:-2, 2:-2].min() > 100
    assert small[2:-2, 2:-2].max() < 155


def test_enlargement_is_told() -> None:
    assert framing(176, 144, 848, 480).enlargement == pytest.approx(848 / 176)
    assert framing(1280, 720, 640, 360).enlargement == pytest.approx(0.5)
