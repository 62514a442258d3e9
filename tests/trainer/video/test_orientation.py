"""Clips are turned and mirrored as players show them, with their pixels' own aspect."""

from __future__ import annotations

import gc
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mochi_trainer.video import Cut, read_clip
from mochi_trainer.video.orientation import ALL, Orientation, orientation, orientation_of
from tests.trainer.video.clips import patched
from tests.trainer.video.movies import frame_of, write_movie

HEIGHT, WIDTH = 32, 48
MATRICES = [
    (1, 0, 0, 1),
    (0, 1, -1, 0),
    (-1, 0, 0, -1),
    (0, -1, 1, 0),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, -1, -1, 0),
]
"""(a, b, c, d): a point (x, y) goes to (a x + c y, b x + d y)."""


def shown(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """The picture moved point by point, as the definition says."""
    a, b, c, d = matrix
    height, width = picture.shape[:2]
    points = [(x, y) for y in range(height) for x in range(width)]
    moved = [(a * x + c * y, b * x + d * y) for x, y in points]
    left, top = min(x for x, _ in moved), min(y for _, y in moved)
    size = (max(y for _, y in moved) - top + 1, max(x for x, _ in moved) - left + 1, 3)
    found = np.zeros(size, picture.dtype)
    for (x, y), (to_x, to_y) in zip(points, moved, strict=True):
        found[to_y - top, to_x - left] = picture[y, x]
    return found


def displayed(path: Path, matrix: tuple[int, int, int, int], scale: int = 1 << 16) -> Path:
    a, b, c, d = (part * scale for part in matrix)
    return patched(path, b"tkhd", 40, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))


def clip(path: Path, **tags: object) -> Path:
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return write_movie(
        path, [frame_of([picture], "rgb24")] * 3, codec="libx264rgb", options={"qp": "0"}, **tags
    )


def read(path: Path, width: int, height: int, **cut: float) -> np.ndarray:
    return read_clip(path, Cut(frames=1, least=1, fps=30, width=width, height=height, **cut)).frames[0]


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_rotation_and_mirror(tmp_path: Path, matrix: tuple[int, int, int, int], suffix: str) -> None:
    path = clip(tmp_path / f"a.{suffix}")
    expected = shown(read(path, WIDTH, HEIGHT), matrix)
    seen = read(displayed(path, matrix), expected.shape[1], expected.shape[0])
    assert np.array_equal(seen, expected)


def test_the_eight_orientations_are_told_apart_at_any_scale_and_nearly_so() -> None:
    found = set()
    for a, b, c, d in MATRICES:
        one = orientation((a, b, 0, c, d, 0, 0, 0, 1))
        assert orientation((a * 40000 + 900, b * 40000, 0, c * 40000, d * 40000 - 700, 0, 5, 5, 1)) == one
        found.add(one)
    assert found == set(ALL)


def test_a_matrix_that_shows_nothing_is_none() -> None:
    assert orientation((0,) * 9) == orientation(None) == orientation((1, 2)) == Orientation()


@pytest.mark.parametrize("lies", [False, True])
def test_pixels_that_are_not_square(tmp_path: Path, lies: bool) -> None:
    """Of 48x32 pixels twice as wide as high, shown at 96x32, a square is cut from the middle third."""
    path = clip(tmp_path / "a.mp4", aspect=Fraction(2))
    upright = read(path, 64, 64)
    half = read(path, 96, 32)
    assert np.abs(half[:, 32:64].astype(int) - read(path, 32, 32)).mean() < 2
    if lies:
        assert (
            np.abs(read(displayed(path, (0, 1, -1, 0)), 64, 64) - np.rot90(upright, -1).astype(int)).mean()
            < 1
        )


@pytest.mark.parametrize("aspect", [Fraction(1, 1000), Fraction(60000, 1)])
def test_an_aspect_beyond_all_sense_is_taken_for_square(tmp_path: Path, aspect: Fraction) -> None:
    assert np.array_equal(
        read(clip(tmp_path / "a.mp4", aspect=aspect), 48, 32), read(clip(tmp_path / "b.mp4"), 48, 32)
    )


@pytest.mark.parametrize(("x", "left"), [(0.0, 0), (0.5, 8), (1.0, 16)])
def test_the_window_is_where_the_cut_says_and_after_turning(tmp_path: Path, x: float, left: int) -> None:
    path = clip(tmp_path / "a.mp4")
    whole = read(path, WIDTH, HEIGHT)
    assert np.array_equal(read(path, 32, 32, crop_x=x), whole[:, left : left + 32])
    turned = displayed(path, (0, 1, -1, 0))
    assert np.array_equal(read(turned, 32, 32, crop_y=x), np.rot90(whole, -1)[left : left + 32])


def test_a_frame_leaves_memory_with_its_last_name() -> None:
    """Not with the next collection of garbage: forty frames of 4K would be half a gigabyte by then."""
    frame = frame_of([np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(3)], "gbrp")
    gc.collect()
    gc.disable()
    try:
        assert orientation_of(frame) == Orientation()
        del frame
        assert gc.collect() == 0
    finally:
        gc.enable()
