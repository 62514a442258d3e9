"""Still images as they are shown: upright, in sRGB, 8 bits, on black; and what is refused before memory is taken."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video import Cut, Limits, Readers
from mochi_trainer.video.stills import read_still

RED, GREEN, BLUE = (220, 30, 40), (20, 200, 60), (30, 50, 210)


def halves(width: int = 96, height: int = 64) -> Image.Image:
    """Red on the left, green on the right, a blue corner at the upper left."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2], picture[:, width // 2 :] = RED, GREEN
    picture[: height // 4, : width // 6] = BLUE
    return Image.fromarray(picture)


def found(path: Path) -> np.ndarray:
    return read_still(path, Limits()).picture


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_each_format_is_read(tmp_path: Path, name: str) -> None:
    halves().save(tmp_path / name, quality=95)
    picture = found(tmp_path / name)
    assert picture.shape == (64, 96, 3)
    assert np.abs(picture[40, 20].astype(int) - RED).max() < 25
    assert np.abs(picture[40, 80].astype(int) - GREEN).max() < 25


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_it_is_turned_as_its_exif_says(tmp_path: Path, orientation: int, kind: str) -> None:
    """The file holds what the camera's sensor saw; shown, the blue corner is where it belongs."""
    turned = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    image = halves() if turned is None else halves().transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind}"
    image.save(path, exif=exif, quality=100, **({"lossless": True} if kind == "webp" else {}))
    picture = found(path)
    assert picture.shape == (64, 96, 3)
    assert np.abs(picture[4, 4].astype(int) - BLUE).max() < 40
    assert np.abs(picture[50, 80].astype(int) - GREEN).max() < 40


def test_what_is_transparent_stands_on_black(tmp_path: Path) -> None:
    whole = np.zeros((8, 8, 4), np.uint8)
    whole[..., :3], whole[..., 3] = 200, 255
    whole[:, 4:, 3] = 0
    whole[0, 0, 3] = 128
    Image.fromarray(whole).save(tmp_path / "a.png")
    picture = found(tmp_path / "a.png")
    assert picture[4, 0].tolist() == [200, 200, 200]
    assert picture[4, 7].tolist() == [0, 0, 0]
    assert np.abs(picture[0, 0].astype(int) - 100).max() <= 1


def test_a_palette_with_a_transparent_colour_stands_on_black(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=1)
    picture = found(tmp_path / "a.png")
    assert (picture[0, 0].tolist(), picture[1, 1].tolist()) == ([10, 20, 30], [0, 0, 0])


def png(mode: int, bits: int, rows: bytes, width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, mode, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("mode", "channels"), [(0, 1), (2, 3)], ids=["grey", "colour"])
def test_sixteen_bits_keep_their_brightness(tmp_path: Path, mode: int, channels: int) -> None:
    levels = [0, 0x2000, 0x8000, 0xFFFF]
    row = b"\0" + b"".join(struct.pack(">H", level) * channels for level in levels)
    (tmp_path / "a.png").write_bytes(png(mode, 16, row * 2, 4, 2))
    picture = found(tmp_path / "a.png")
    assert picture[0, :, 0].tolist() == [0, 32, 128, 255]
    assert (picture[..., 0] == picture[..., 2]).all()


def test_four_colours_of_print_become_three(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = found(tmp_path / "a.jpg")[4, 4].tolist()
    assert red > 200
    assert max(green, blue) < 60


def test_a_profile_is_brought_to_srgb_and_nonsense_is_ignored(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    image.save(
        tmp_path / "a.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    assert np.abs(found(tmp_path / "a.png")[4, 4].astype(int) - (200, 100, 50)).max() <= 1
    for name, profile in (("b.png", b"nonsense"), ("c.png", xyz)):
        image.save(tmp_path / name, icc_profile=profile)
        assert found(tmp_path / name)[4, 4].tolist() == [200, 100, 50]


def test_one_picture_is_cut_to_a_size(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    cut = Cut(frames=1, least=1, fps=30, width=32, height=32, crop_x=1.0)
    picture, enlargement = read_still(tmp_path / "a.png", Limits()).cut(cut)
    assert picture.shape == (32, 32, 3)
    assert enlargement == pytest.approx(0.5)
    assert np.abs(picture[16, 28].astype(int) - GREEN).max() < 10


def refused(path: Path) -> ClipError:
    with Readers(1) as readers, pytest.raises(ClipError) as caught:
        readers.run(read_still, path, Limits(memory_bytes=1 << 30))
    return caught.value


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """60000 x 60000 pixels would take 10 GB; the worker has one."""
    (tmp_path / "a.png").write_bytes(png(2, 8, b"", 60_000, 60_000))
    (tmp_path / "b.png").write_bytes(png(2, 8, b"", 9000, 9000))
    assert refused(tmp_path / "a.png").reason == ClipReason.TOO_LARGE
    error = refused(tmp_path / "b.png")
    assert error.reason == ClipReason.TOO_LARGE
    assert str(error) == "has 9000x9000 pixels, at most 37748736 of them are read"


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_what_moves_is_no_still(tmp_path: Path, name: str) -> None:
    first, second = halves(), halves().transpose(Image.Transpose.ROTATE_180)
    first.save(tmp_path / name, save_all=True, append_images=[second], duration=100)
    error = refused(tmp_path / name)
    assert error.reason == ClipReason.UNSUPPORTED
    assert str(error) == "is animated (2 pictures): save one of them, or all as MP4"


def test_a_phones_picture_with_others_behind_it_is_read(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[halves(48, 32)])
    assert found(tmp_path / "a.jpg").shape == (64, 96, 3)


def test_damage_and_other_formats_are_the_files_own_fault(tmp_path: Path) -> None:
    halves().save(tmp_path / "whole.jpg", quality=95)
    data = (tmp_path / "whole.jpg").read_bytes()
    halves().save(tmp_path / "picture.gif")
    files = {
        "cut.jpg": data[: len(data) // 2],
        "empty.png": b"",
        "text.png": b"no picture at all",
        "other.png": (tmp_path / "picture.gif").read_bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name).reason == ClipReason.CORRUPT, name
