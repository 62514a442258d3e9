"""Every way in which a still image can be transparent, over black, against a literal reading of its numbers."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mochi_trainer.video import Limits
from mochi_trainer.video.stills import read_still

RNG = np.random.default_rng(3)
HEIGHT, WIDTH = 6, 8
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def png(path: Path, samples: np.ndarray, kind: int, depth: int, *chunks: tuple[bytes, bytes]) -> Path:
    """Samples (H, W, C) as they are, in a PNG of a colour type and a depth, with further chunks."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = samples.shape
    assert channels == CHANNELS[kind]
    flat = samples.reshape(height, -1)
    bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    packed = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(chunk, parts)))
    return path


def eight(samples: np.ndarray, depth: int) -> np.ndarray:
    """Samples as 8 bits: lower ones left out, few ones spread over all."""
    return samples >> 8 if depth == 16 else samples * (255 // ((1 << depth) - 1))


def over_black(colours: np.ndarray, opaque: np.ndarray, top: int) -> np.ndarray:
    """Colours (H, W, C) of 8 bits and an alpha (H, W): the formula of the PNG standard, 13.16, background 0."""
    return np.floor(colours * (opaque[..., None] / top) + 0.5)


def found(path: Path) -> np.ndarray:
    return read_still(path, Limits()).picture


def key(values: Sequence[int]) -> tuple[bytes, bytes]:
    return b"tRNS", struct.pack(f">{len(values)}H", *values)


def samples(depth: int, channels: int, top: int | None = None) -> np.ndarray:
    return RNG.integers(0, top or 1 << depth, (HEIGHT, WIDTH, channels))


@pytest.mark.parametrize("above", [0, 1], ids=["", "with bits above the depth"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_level_of_grey_is_transparent(tmp_path: Path, depth: int, above: int) -> None:
    grey = samples(depth, 1)
    level = int(grey[2, 3, 0])
    if depth == 16:
        grey[0, 0], grey[0, 1] = level, level ^ 1  # alike in its upper eight bits
    told = level | (above << depth) & 0xFFFF
    opaque = grey[..., 0] != level
    expected = over_black(np.repeat(eight(grey, depth), 3, axis=2), opaque, 1)
    assert np.array_equal(found(png(tmp_path / "a.png", grey, 0, depth, key([told]))), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_one_colour_is_transparent(tmp_path: Path, depth: int) -> None:
    colours = samples(depth, 3)
    one = colours[2, 3].copy()
    colours[0, 0], colours[0, 1] = one, one ^ np.array([0, 0, 1])
    opaque = (colours != one).any(axis=-1)
    assert opaque.sum() == HEIGHT * WIDTH - 2
    path = png(tmp_path / "a.png", colours, 2, depth, key([int(value) for value in one]))
    assert np.array_equal(found(path), over_black(eight(colours, depth), opaque, 1))


@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_colours_of_a_palette_are_more_or_less_transparent(tmp_path: Path, depth: int, count: int) -> None:
    """`tRNS` may have fewer entries than the palette: the rest is opaque."""
    size = min(16, 1 << depth)
    palette, alphas = RNG.integers(0, 256, (size, 3)), np.full(size, 255)
    alphas[:count] = RNG.integers(0, 256, size)[:count]
    index = samples(depth, 1, size)
    told = alphas[:count].astype(np.uint8).tobytes()
    path = png(
        tmp_path / "a.png", index, 3, depth, (b"PLTE", palette.astype(np.uint8).tobytes()), (b"tRNS", told)
    )
    assert np.array_equal(found(path), over_black(palette[index[..., 0]], alphas[index[..., 0]], 255))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [4, 6], ids=["grey", "colour"])
def test_an_alpha_channel_counts_with_all_its_bits(tmp_path: Path, kind: int, depth: int) -> None:
    whole = samples(depth, CHANNELS[kind])
    whole[0, :2, -1] = 0, (1 << depth) - 1
    colours = eight(whole[..., :-1], depth)
    if kind == 4:
        colours = np.repeat(colours, 3, axis=2)
    expected = over_black(colours, whole[..., -1], (1 << depth) - 1)
    assert np.array_equal(found(png(tmp_path / "a.png", whole, kind, depth)), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_webp(tmp_path: Path, mode: str) -> None:
    whole = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    image = Image.fromarray(whole).convert(mode)
    expected = np.asarray(image.convert("RGBA")).astype(int)
    image.save(tmp_path / "a.webp", lossless=True, exact=True)
    assert np.array_equal(found(tmp_path / "a.webp"), over_black(expected[..., :3], expected[..., 3], 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_transparent_colour_turns_with_the_picture(tmp_path: Path, orientation: int) -> None:
    colours = samples(16, 3)
    told = key([int(value) for value in colours[1, 2]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = found(png(tmp_path / "a.png", colours, 2, 16, told))
    turned = found(png(tmp_path / "b.png", colours, 2, 16, told, (b"eXIf", exif.tobytes()[6:])))
    by_hand = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright),
    }[orientation]  # fmt: skip
    assert np.array_equal(turned, by_hand)


def test_colours_of_a_profile_are_converted_before_they_stand_on_black(tmp_path: Path) -> None:
    whole = samples(8, 4)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = png(tmp_path / "a.png", whole, 6, 8, (b"iCCP", b"sRGB\0\0" + zlib.compress(profile)))
    expected = over_black(whole[..., :3], whole[..., 3], 255)
    assert np.abs(found(path) - expected).max() <= 1


def test_a_colour_that_is_nowhere_makes_nothing_transparent(tmp_path: Path) -> None:
    colours = samples(8, 3)
    plain = found(png(tmp_path / "a.png", colours, 2, 8))
    assert np.array_equal(found(png(tmp_path / "b.png", colours, 2, 8, key([255, 254, 253]))), plain)
    assert np.array_equal(plain, colours)
