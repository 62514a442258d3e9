"""HDR with boxes beside it: Dolby Vision by profile, and what displays, light and both eyes are told, which changes nothing."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mochi_api.clips import ClipReason, ClipWarning
from mochi_trainer.errors import ClipError
from mochi_trainer.video import Clip, Cut, read_clip
from tests.trainer.video.clips import box, in_description, turn_clockwise
from tests.trainer.video.movies import frame_of, write_movie
from tests.trainer.video.test_hdr import HLG, PQ, movie

LIGHT = np.array([0.4, 0.5, 0.6])


def dolby(kind: bytes, profile: int, compatible: int, *, base: bool = True, added: bool = False) -> bytes:
    """The configuration box of Dolby Vision (level 6, with metadata)."""
    flags = profile << 9 | 6 << 3 | 1 << 2 | added << 1 | base
    return box(kind, b"\1\0", struct.pack(">HB", flags, compatible << 4), bytes(19))


def read(path: Path) -> Clip:
    return read_clip(path, Cut(frames=1, least=1, fps=30, width=32, height=32))


def sdr(path: Path) -> Path:
    planes = [np.full((64 >> k, 64 >> k), value, np.uint8) for k, value in ((0, 150), (1, 120), (1, 140))]
    return write_movie(path, [frame_of(planes, "yuv420p")] * 3, matrix=1)


def tagged(path: Path, letters: bytes) -> Path:
    """As the muxers of Dolby name the codec."""
    data = bytearray(path.read_bytes())
    start = data.index(b"stsd") + 16
    data[start : start + 4] = letters
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "profile", "compatible", "transfer"),
    [
        (b"dvvC", 8, 4, HLG),
        (b"dvvC", 8, 1, PQ),
        (b"dvcC", 7, 6, PQ),
        (b"dvcC", 7, 0, PQ),
        (b"dvvC", 10, 1, PQ),
        (b"dvvC", 10, 4, HLG),
        (b"dvwC", 20, 4, HLG),
    ],
)
def test_a_base_layer_that_others_can_show_is_read_as_it_is(
    tmp_path: Path, kind: bytes, profile: int, compatible: int, transfer: int
) -> None:
    clip = read(in_description(movie(tmp_path / "a.mov", LIGHT, transfer), dolby(kind, profile, compatible)))
    plain = read(movie(tmp_path / "b.mov", LIGHT, transfer))
    assert np.array_equal(clip.frames, plain.frames)
    assert clip.warnings == plain.warnings
    assert list(clip.warnings) == [ClipWarning.HDR_CONVERTED]


@pytest.mark.parametrize(("profile", "compatible"), [(8, 2), (4, 2), (9, 2)])
def test_a_base_layer_in_sdr_is_sdr(tmp_path: Path, profile: int, compatible: int) -> None:
    clip = read(in_description(sdr(tmp_path / "a.mp4"), dolby(b"dvvC", profile, compatible)))
    assert np.array_equal(clip.frames, read(sdr(tmp_path / "b.mp4")).frames)
    assert clip.warnings == {}


@pytest.mark.parametrize("letters", [b"hev1", b"dvh1", b"dvhe"])
@pytest.mark.parametrize(
    ("kind", "profile", "compatible"),
    [(b"dvcC", 5, 0), (b"dvcC", 5, 1), (b"dvvC", 10, 0), (b"dvwC", 20, 0)],
)
def test_pictures_that_only_dolby_shows_are_refused_by_name(
    tmp_path: Path, kind: bytes, profile: int, compatible: int, letters: bytes
) -> None:
    path = in_description(movie(tmp_path / "a.mov", LIGHT, PQ), dolby(kind, profile, compatible))
    with pytest.raises(ClipError) as caught:
        read(tagged(path, letters))
    assert caught.value.reason is ClipReason.UNSUPPORTED
    assert str(caught.value).startswith(
        f"its pictures are in Dolby Vision's own colours (profile {profile}, IPT-PQ-c2)"
    )


SURROUNDINGS = {
    "mdcv": box(b"mdcv", struct.pack(">8H2I", *range(1000, 9000, 1000), 10_000_000, 1)),
    "clli": box(b"clli", struct.pack(">2H", 1000, 400)),
    "amve": box(b"amve", struct.pack(">I2H", 50_000, 15635, 16450)),
    "hfov": box(b"hfov", struct.pack(">I", 63_400)),
    "vexu": box(
        b"vexu",
        box(
            b"eyes",
            box(b"stri", b"\0\0\0\0\3"),
            box(b"hero", b"\0\0\0\0\1"),
            box(b"cams", box(b"blin", struct.pack(">II", 0, 19_240))),
        ),
        box(b"proj", box(b"prji", b"\0\0\0\0rect")),
    ),
    "lhvC": box(b"lhvC", bytes.fromhex("01f000fccf02a10001000640010c0111ffa2000100034201ff")),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("names", [*([name] for name in SURROUNDINGS), list(SURROUNDINGS)], ids=" ".join)
@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_what_is_said_of_displays_light_and_eyes_changes_no_picture(
    tmp_path: Path, transfer: int, names: list[str], turned: bool
) -> None:
    path = movie(tmp_path / "a.mov", LIGHT, transfer)
    in_description(path, *(SURROUNDINGS[name] for name in names), dolby(b"dvvC", 8, 4))
    if turned:
        turn_clockwise(path)
    clip = read(path)
    assert np.array_equal(clip.frames, read(movie(tmp_path / "b.mov", LIGHT, transfer)).frames)
    assert list(clip.warnings) == [ClipWarning.HDR_CONVERTED]
