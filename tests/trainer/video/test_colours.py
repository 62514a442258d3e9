"""Colours are those of a literal reading: matrix, range, depth, chroma where the file says; alpha over black."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.video import Cut, framing, read_clip
from tests.trainer.video.clips import real_clip
from tests.trainer.video.movies import SITES, frame_of, literal_rgb, write_movie

HEIGHT, WIDTH = 64, 96
SAME = Cut(frames=3, least=3, fps=30, width=WIDTH, height=HEIGHT)
ROUNDING = 0.6
"""Levels of 255: half a level and the arithmetic of libswscale."""


def noise(seed: int, height: int, width: int, bits: int = 8, low: int = 40, high: int = 216) -> np.ndarray:
    unit = 1 << (bits - 8)
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(low * unit, high * unit, (height, width)).astype(kind)


def planes_of(pixels: str, bits: int = 8) -> list[np.ndarray]:
    down, across = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}[pixels[3:6]]
    chroma = [noise(seed, HEIGHT // down, WIDTH // across, bits, 100, 156) for seed in (2, 3)]
    return [noise(1, HEIGHT, WIDTH, bits), *chroma]


def read(path: Path, cut: Cut = SAME) -> np.ndarray:
    return read_clip(path, cut).frames


def far(frames: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(frames.astype(float) - expected).max())


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p"])
def test_every_matrix_range_and_sampling(tmp_path: Path, matrix: int, full: bool, pixels: str) -> None:
    planes = planes_of(pixels)
    path = write_movie(tmp_path / "a.mp4", [frame_of(planes, pixels)] * 3, matrix=matrix, full=full)
    assert far(read(path), literal_rgb(planes, matrix=matrix, full=full)) < ROUNDING


@pytest.mark.parametrize("site", SITES)
def test_chroma_lies_where_the_file_says(tmp_path: Path, site: int) -> None:
    planes = planes_of("yuv420p")
    options = {"x264-params": f"chromaloc={site}"}
    path = write_movie(tmp_path / "a.mp4", [frame_of(planes, "yuv420p")] * 3, matrix=1, options=options)
    assert far(read(path), literal_rgb(planes, matrix=1, site=SITES[site])) < ROUNDING


@pytest.mark.parametrize(
    ("codec", "pixels", "container"),
    [
        ("libx264", "yuv420p10le", "mp4"),
        ("libx264", "yuv422p10le", "mov"),
        ("libx265", "yuv420p", "mp4"),
        ("libx265", "yuv420p10le", "mp4"),
        ("libvpx-vp9", "yuv420p", "mp4"),
    ],
)
def test_codecs_that_lose_nothing(tmp_path: Path, codec: str, pixels: str, container: str) -> None:
    bits = 10 if "10" in pixels else 8
    planes = planes_of(pixels, bits)
    path = write_movie(tmp_path / f"a.{container}", [frame_of(planes, pixels)] * 3, codec=codec, matrix=1)
    assert far(read(path), literal_rgb(planes, matrix=1, bits=bits)) < ROUNDING


@pytest.mark.parametrize(
    ("codec", "pixels", "container"),
    [
        ("prores_ks", "yuv422p10le", "mov"),
        ("dnxhd", "yuv422p10le", "mov"),
        ("libsvtav1", "yuv420p10le", "mp4"),
        ("libsvtav1", "yuv420p", "mp4"),
        ("mjpeg", "yuvj420p", "mov"),
        ("mpeg4", "yuv420p", "mp4"),
    ],
)
def test_codecs_that_lose_a_little(tmp_path: Path, codec: str, pixels: str, container: str) -> None:
    bits = 10 if "10" in pixels else 8
    unit = 1 << (bits - 8)
    across = np.linspace(60, 190, 256)[None] * np.ones((144, 1)) * unit
    kind = np.uint8 if bits == 8 else np.uint16
    down = 2 if "420" in pixels else 1
    chroma = np.full((144 // down, 128), 140 * unit)
    planes = [plane.astype(kind) for plane in (across, chroma, chroma)]
    options = (
        {"profile": "dnxhr_hqx"}
        if codec == "dnxhd"
        else {"qscale": "2"}
        if codec in {"mjpeg", "mpeg4"}
        else {}
    )
    options |= {"preset": "10", "crf": "4"} if codec == "libsvtav1" else {}
    full = codec == "mjpeg"
    path = write_movie(
        tmp_path / f"a.{container}",
        [frame_of(planes, pixels)] * 3,
        codec=codec,
        matrix=5 if full else 1,
        full=full,
        options=options,
    )
    seen = read(path, Cut(frames=3, least=3, fps=30, width=256, height=144))
    matrix = 6 if codec in {"mjpeg", "mpeg4"} else 1
    expected = literal_rgb(planes, matrix=matrix, full=full, bits=bits)
    assert np.abs(seen.astype(float) - expected).mean() < 1.5
    assert far(seen, expected) < 6


def before(path: Path, cut: Cut) -> np.ndarray:
    """The pictures of version 0: libswscale's own way to RGB, then Pillow."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        aspect = float(container.streams.video[0].sample_aspect_ratio or 1)
    guess = "ITU709" if frame.colorspace == 2 and frame.height >= 720 else None
    picture = frame.to_ndarray(format="rgb24", src_colorspace=guess)
    box = framing(frame.width, frame.height, cut.width, cut.height, pixel_aspect=aspect)
    return box.apply(picture)


@pytest.mark.parametrize(
    ("codec", "pixels", "container", "matrix"),
    [
        ("libx264", "yuv444p", "mp4", 1),
        ("libx264", "yuv444p", "mp4", 6),
        ("libx264", "yuv444p", "mp4", None),
        ("libx264", "yuv444p10le", "mp4", 1),
        ("libx265", "yuv444p", "mp4", 1),
        ("libx264rgb", "rgb24", "mp4", None),
        ("qtrle", "rgb24", "mov", None),
        ("png", "rgb24", "mov", None),
        ("png", "rgb48be", "mov", None),
    ],
)
@pytest.mark.parametrize("size", [(96, 64), (48, 32), (80, 30), (130, 100)])
def test_what_needs_nothing_of_this_keeps_every_byte(
    tmp_path: Path, codec: str, pixels: str, container: str, matrix: int | None, size: tuple[int, int]
) -> None:
    deep = 16 if "48" in pixels else 10 if "10" in pixels else 8
    kind = np.uint8 if deep == 8 else ">u2" if deep == 16 else np.uint16
    shape = (HEIGHT, WIDTH, 3) if "rgb" in pixels else (HEIGHT, WIDTH)
    count = 3 if pixels.startswith("yuv") else 1
    planes = [np.random.default_rng(seed).integers(0, 1 << deep, shape).astype(kind) for seed in range(count)]
    options = {"qp": "0"} if codec == "libx264rgb" else {}
    path = write_movie(
        tmp_path / f"a.{container}",
        [frame_of(planes, pixels)] * 3,
        codec=codec,
        matrix=matrix,
        options=options,
    )
    cut = Cut(frames=1, least=1, fps=30, width=size[0], height=size[1])
    assert np.array_equal(read(path, cut)[0], before(path, cut))


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"])
def test_clips_in_420_change_by_their_chroma_and_by_rounding_only(name: str) -> None:
    cut = Cut(frames=1, least=1, fps=30, width=212, height=120)
    seen, was = read(real_clip(name), cut)[0].astype(int), before(real_clip(name), cut).astype(int)
    assert np.abs(seen - was).mean() < 2
    assert np.abs(seen.mean(axis=(0, 1)) - was.mean(axis=(0, 1))).max() < 2


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4"])
def test_real_clips_are_those_of_a_literal_reading(name: str) -> None:
    with av.open(str(real_clip(name))) as container:
        frame = next(container.decode(video=0))
    planes = [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]
    cut = Cut(frames=1, least=1, fps=30, width=frame.width, height=frame.height)
    matrix = 1 if frame.height >= 720 else 6
    assert far(read(real_clip(name), cut)[0], literal_rgb(planes, matrix=matrix)) < ROUNDING


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [("png", "rgba"), ("png", "rgba64be"), ("qtrle", "argb"), ("prores_ks", "yuva444p10le")],
)
def test_what_is_transparent_is_black(tmp_path: Path, codec: str, pixels: str) -> None:
    alpha = np.broadcast_to(np.linspace(0, 1, WIDTH)[None, :], (HEIGHT, WIDTH))
    if pixels.startswith("yuva"):
        planes = [np.full((HEIGHT, WIDTH), value * 4, np.uint16) for value in (180, 128, 128)]
        frame = frame_of([*planes, np.round(alpha * 1023).astype(np.uint16)], pixels)
        colour = np.full((HEIGHT, WIDTH, 3), (180 - 16) / 219 * 255)
    else:
        deep, kind = (65535, ">u2") if "64" in pixels else (255, np.uint8)
        colour = np.broadcast_to(np.array([200.0, 90.0, 30.0]), (HEIGHT, WIDTH, 3))
        parts = [colour / 255, alpha[..., None]]
        packed = np.concatenate(parts if pixels.startswith("rgba") else parts[::-1], axis=-1)
        frame = frame_of([np.round(packed * deep).astype(kind)], pixels)
    path = write_movie(tmp_path / "a.mov", [frame] * 3, codec=codec)
    seen = read(path)
    assert far(seen, colour * alpha[..., None]) < (3 if codec == "prores_ks" else 1.1)
    assert (seen[:, :, 0] <= 1).all()


@pytest.mark.parametrize("height", [718, 720])
def test_a_matrix_that_is_not_said_follows_the_height(tmp_path: Path, height: int) -> None:
    planes = [
        np.full((height, 64), 120, np.uint8),
        *(np.full((height // 2, 32), value, np.uint8) for value in (100, 170)),
    ]
    path = write_movie(tmp_path / "a.mp4", [frame_of(planes, "yuv420p")] * 3)
    seen = read(path, Cut(frames=1, least=1, fps=30, width=64, height=32))[0, 16, 32]
    assert np.abs(seen - literal_rgb(planes, matrix=1 if height >= 720 else 6)[0, 0]).max() < ROUNDING


@pytest.mark.parametrize(
    ("matrix", "name"), [(8, "YCgCo"), (10, "BT.2020 of constant luminance"), (14, "ICtCp")]
)
def test_a_matrix_that_is_not_converted_is_unsupported_and_named(
    tmp_path: Path, matrix: int, name: str
) -> None:
    path = write_movie(tmp_path / "a.mp4", [frame_of(planes_of("yuv444p"), "yuv444p")] * 3, matrix=matrix)
    with pytest.raises(ClipError, match=f"colour matrix {name}") as caught:
        read(path)
    assert caught.value.reason is ClipReason.UNSUPPORTED


def test_scaling_is_that_of_pillow(tmp_path: Path) -> None:
    planes = planes_of("yuv444p")
    path = write_movie(tmp_path / "a.mp4", [frame_of(planes, "yuv444p")] * 3, matrix=1)
    full = Image.fromarray(read(path)[0])
    small = np.asarray(full.resize((40, 32), Image.Resampling.BICUBIC, box=(8, 0, 88, 64)))
    assert np.array_equal(read(path, Cut(frames=1, least=1, fps=30, width=40, height=32))[0], small)
