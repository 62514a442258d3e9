"""Of a clip with a clean aperture (`clap`) only that is shown, wherever it lies; nonsense shows the whole picture."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mochi_trainer.footage.passes import overview, stills
from mochi_trainer.video import Cut, Limits, opened, read_clip
from mochi_trainer.video.aperture import Aperture, Window
from mochi_trainer.video.buckets import Bucket, bucket_of_clip
from tests.trainer.video.clips import box, in_description, patched
from tests.trainer.video.movies import frame_of, literal_rgb, write_movie
from tests.trainer.video.test_orientation import MATRICES, displayed, shown

HEIGHT, WIDTH = 48, 64
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def clip(path: Path, picture: np.ndarray = PICTURE, **tags: object) -> Path:
    return write_movie(
        path, [frame_of([picture], "rgb24")] * 3, codec="libx264rgb", options={"qp": "0"}, **tags
    )


def clap(*numbers: int) -> bytes:
    """Width, height, right and down, each a numerator and a denominator."""
    return box(b"clap", struct.pack(">8I", *(number & 0xFFFFFFFF for number in numbers)))


def track_size(path: Path, width: int, height: int) -> Path:
    return patched(path, b"tkhd", 76, struct.pack(">II", width << 16, height << 16))


def read(path: Path, width: int, height: int, **cut: float) -> np.ndarray:
    return read_clip(path, Cut(frames=1, least=1, fps=30, width=width, height=height, **cut)).frames[0]


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize(
    ("numbers", "left", "top"),
    [
        ((32, 1, 16, 1, 0, 1, 0, 1), 16, 16),
        ((32, 1, 16, 1, -16, 1, -16, 1), 0, 0),
        ((32, 1, 16, 1, 16, 1, 16, 1), 32, 32),
        ((64, 2, 160, 10, -7, 1, 33, 3), 9, 27),
        ((31, 1, 15, 1, 1, 2, -1, 2), 17, 16),
    ],
)
def test_what_lies_in_the_aperture_is_the_picture(
    tmp_path: Path, suffix: str, numbers: tuple[int, ...], left: int, top: int
) -> None:
    path = in_description(clip(tmp_path / f"a.{suffix}"), clap(*numbers))
    width, height = numbers[0] // numbers[1], numbers[2] // numbers[3]
    expected = PICTURE[top : top + height, left : left + width]
    assert np.array_equal(read(path, width, height), expected)


@pytest.mark.parametrize("matrix", MATRICES)
def test_it_is_taken_out_before_the_picture_is_turned(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    path = displayed(in_description(clip(tmp_path / "a.mp4"), clap(32, 1, 16, 1, 5, 1, -9, 1)), matrix)
    expected = shown(PICTURE[7:23, 21:53], matrix)
    assert np.array_equal(read(path, expected.shape[1], expected.shape[0]), expected)


def test_the_crop_of_the_spec_lies_inside_it(tmp_path: Path) -> None:
    path = in_description(clip(tmp_path / "a.mp4"), clap(32, 1, 16, 1, 0, 1, 0, 1))
    assert np.array_equal(read(path, 16, 16, crop_x=1.0), PICTURE[16:32, 32:48])


def test_chroma_at_its_edge_is_that_of_the_whole_picture(tmp_path: Path) -> None:
    """4:2:0, the edge at an odd pixel: a crop of the coded planes would move the colours."""
    rng = np.random.default_rng(1)
    planes = [rng.integers(60, 190, (HEIGHT >> k, WIDTH >> k), dtype=np.uint8) for k in (0, 1, 1)]
    path = write_movie(tmp_path / "a.mp4", [frame_of(planes, "yuv420p")] * 3, matrix=1)
    in_description(path, clap(31, 1, 15, 1, 1, 2, -1, 2))
    expected = literal_rgb(planes, matrix=1, site=(0, 0.5))[16:31, 17:48]
    assert np.abs(read(path, 31, 15) - expected).max() <= 1


HOSTILE = {
    "no width": (32, 0, 16, 1, 0, 1, 0, 1),
    "no height": (32, 1, 16, 0, 0, 1, 0, 1),
    "no offset": (32, 1, 16, 1, 3, 0, 0, 0),
    "nothing": (0, 1, 0, 1, 0, 1, 0, 1),
    "less than a pixel": (1, 3, 1, 3, 0, 1, 0, 1),
    "larger": (WIDTH + 1, 1, HEIGHT, 1, 0, 1, 0, 1),
    "much larger": (0xFFFFFFFF, 1, 0xFFFFFFFF, 1, 0, 1, 0, 1),
    "beside it": (32, 1, 16, 1, 17, 1, 0, 1),
    "far away": (32, 1, 16, 1, 0x7FFFFFFF, 1, -0x80000000, 1),
}


@pytest.mark.parametrize("kind", [*HOSTILE, "cut off"])
def test_nonsense_shows_the_whole_picture(tmp_path: Path, kind: str) -> None:
    numbers = HOSTILE.get(kind)
    added = clap(*numbers) if numbers else box(b"clap", b"\0\0\0\1" * 5)
    assert np.array_equal(
        read(in_description(clip(tmp_path / "a.mp4"), added), WIDTH, HEIGHT), read(clip(tmp_path / "b.mp4"), WIDTH, HEIGHT)
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["pasp", "track", "both"])
def test_pixels_that_are_not_square(tmp_path: Path, kind: str) -> None:
    """As DV has it: 720x480 of which 704x480 are shown, as wide as 640x480. Here 60x48 of 64x48, shown at 120x48."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, 2:62] = 255
    path = clip(tmp_path / "a.mov", picture, **({} if kind == "track" else {"aspect": Fraction(2)}))
    track_size(path, 128 if kind == "pasp" else 120, HEIGHT)
    in_description(path, clap(60, 1, HEIGHT, 1, 0, 1, 0, 1))
    if kind == "track":
        assert b"pasp" not in path.read_bytes()
    limits = Limits()
    wide, square = Bucket(frames=1, width=160, height=64), Bucket(frames=1, width=80, height=64)
    assert bucket_of_clip(path, 30, 0.0, [wide, square], limits) == wide
    assert read(path, 120, HEIGHT).min() == 255
    with opened(path, limits) as opening:
        assert opening.pixel_aspect == pytest.approx(2)


def test_footage_is_looked_at_and_cut_without_its_edges(tmp_path: Path) -> None:
    """Black edges outside the aperture are no black bars."""
    rng = np.random.default_rng(2)
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[40:200, 32:288] = rng.integers(90, 255, (160, 256, 3), dtype=np.uint8)
    path = clip(tmp_path / "a.mp4", picture)
    told = {warned.kind for warned in overview(path).warnings}
    in_description(path, clap(256, 1, 160, 1, 0, 1, 0, 1))
    assert {warned.kind for warned in overview(path).warnings} < told
    assert np.array_equal(stills(path, 1)[0], picture[40:200, 32:288])


def test_an_edge_between_two_pixels_is_at_the_nearest() -> None:
    """The clean aperture of PAL has 41472/59 = 702.9 pixels."""
    pal = Aperture.of(41472, 59, 576, 1, 0, 1, 0, 1)
    assert pal is not None
    assert pal.window(720, 576) == Window(9, 0, 711, 576)
