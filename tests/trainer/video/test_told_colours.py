"""What only the container says of the colours of its pictures: transfer, matrix, range of grey, alpha on something."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mochi_api.clips import ClipWarning
from mochi_trainer.video import Clip, Cut, read_clip
from tests.trainer.video.boxed import TABLES, rewritten
from tests.trainer.video.clips import box, in_description
from tests.trainer.video.movies import frame_of, literal_rgb, write_movie

HEIGHT, WIDTH = 128, 192
CUT = Cut(frames=1, least=1, fps=30, width=WIDTH, height=HEIGHT)
PQ, HLG, BT709, BT2020 = 16, 18, 1, 9
QUIET = {"preset": "ultrafast", "x265-params": "lossless=1:log-level=none"}

CODECS = {
    "libx264": ("mp4", "yuv420p10le", {"qp": "0"}),
    "libx265": ("mp4", "yuv420p10le", QUIET),
    "libsvtav1": ("mp4", "yuv420p10le", {"preset": "12", "qp": "2"}),
    "prores_ks": ("mov", "yuv422p10le", {}),
    "v210": ("mov", "yuv422p10le", {}),
    "cfhd": ("mov", "yuv422p10le", {}),
}
"""Container, pixels and options: some say nothing of colours, some that they are not specified."""


def colr(primaries: int, transfer: int, matrix: int, form: bytes = b"nclx") -> bytes:
    return box(b"colr", form, struct.pack(">3H", primaries, transfer, matrix), b"\0" * (form == b"nclx"))


def flat(pixels: str, luma: int, u: int = 512, v: int = 512) -> av.VideoFrame:
    """All of one colour, in 10 bits."""
    rows = HEIGHT // 2 if pixels.startswith("yuv420") else HEIGHT
    chroma = [np.full((rows, WIDTH // 2), value, np.uint16) for value in (u, v)]
    return frame_of([np.full((HEIGHT, WIDTH), luma, np.uint16), *chroma], pixels)


def movie(folder: Path, codec: str, luma: int, u: int, v: int, *told: bytes) -> Path:
    container, pixels, options = CODECS[codec]
    frames = [flat(pixels, luma, u, v) for _ in range(3)]
    path = write_movie(folder / f"{codec}.{container}", frames, codec=codec, options=options)
    return in_description(path, *told) if told else path


def colour(clip: Clip) -> np.ndarray:
    return clip.frames[0, HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4].mean((0, 1))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("transfer", "white"), [(PQ, 0.58), (HLG, 0.75)])
def test_hdr_that_only_the_container_tells_is_hdr(
    tmp_path: Path, codec: str, transfer: int, white: float
) -> None:
    path = movie(tmp_path, codec, round(64 + 876 * white), 512, 512, colr(BT2020, transfer, BT2020))
    clip = read_clip(path, CUT)
    assert ClipWarning.HDR_CONVERTED in clip.warnings
    assert np.abs(colour(clip) - 235).max() <= 2


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("form", [b"nclx", b"nclc"])
def test_a_matrix_that_only_the_container_tells_is_used(tmp_path: Path, codec: str, form: bytes) -> None:
    """Below 720 lines BT.601 would be assumed."""
    codes = (480, 400, 680)
    profile = box(b"colr", b"prof", bytes(20))
    path = movie(tmp_path, codec, *codes, profile, colr(BT709, BT709, BT709, form))
    planes = [np.full((2, 2), code) for code in codes]
    expected, other = (literal_rgb(planes, matrix=matrix, bits=10)[0, 0] for matrix in (1, 6))
    assert np.abs(colour(read_clip(path, CUT)) - expected).max() < 3.5
    assert np.abs(colour(read_clip(movie(tmp_path, codec, *codes), CUT)) - other).max() < 3.5


def test_what_the_frames_say_counts_more(tmp_path: Path) -> None:
    pixels, options = "yuv420p10le", {"qp": "0"}
    frames = [flat(pixels, 680) for _ in range(3)]
    path = write_movie(
        tmp_path / "a.mp4", frames, matrix=BT709, transfer=BT709, primaries=BT709, options=options
    )
    clip = read_clip(in_description(path, colr(BT2020, PQ, BT2020)), CUT)
    assert ClipWarning.HDR_CONVERTED not in clip.warnings


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True])
def test_grey_has_the_range_that_the_file_says(tmp_path: Path, bits: int, full: bool) -> None:
    """Pictures without chroma: libswscale takes all of them for full."""
    unit, top = 1 << (bits - 8), (1 << bits) - 1
    codes = np.linspace(0, top, WIDTH).round()
    levels = codes / top if full else (codes / unit - 16) / 219
    luma = np.broadcast_to(codes.astype(np.uint8 if bits == 8 else np.uint16), (HEIGHT, WIDTH))
    pixels = "gray" if bits == 8 else f"gray{bits}le"
    path = write_movie(
        tmp_path / "a.mp4", [frame_of([luma], pixels)] * 3, codec="libx265", full=full, options=QUIET
    )
    seen = read_clip(path, CUT).frames[0]
    assert np.abs(seen - np.clip(levels * 255, 0, 255)[None, :, None]).max() < 0.6 + (bits > 8 and full)


@pytest.mark.parametrize("full", [False, True])
def test_grey_in_hdr(tmp_path: Path, full: bool) -> None:
    luma = np.full((HEIGHT, WIDTH), round(1023 * 0.58) if full else round(64 + 876 * 0.58), np.uint16)
    path = write_movie(
        tmp_path / "a.mp4",
        [frame_of([luma], "gray10le")] * 3,
        codec="libx265",
        full=full,
        transfer=PQ,
        primaries=BT2020,
        matrix=BT2020,
        options=QUIET,
    )
    assert np.abs(colour(read_clip(path, CUT)) - 235).max() <= 1


STRAIGHT, ON_WHITE, ON_BLACK, COPY, BLEND = 0x100, 0x101, 0x102, 0, 0x104


@pytest.mark.parametrize("mode", [STRAIGHT, ON_WHITE, ON_BLACK, COPY, BLEND])
@pytest.mark.parametrize(
    ("codec", "pixels"), [("qtrle", "argb"), ("png", "rgba64be"), ("prores_ks", "yuva444p10le")]
)
def test_colours_that_lie_on_something_already_are_not_dimmed_again(
    tmp_path: Path, codec: str, pixels: str, mode: int
) -> None:
    """The graphics mode of the track says so (QuickTime File Format); the picture over black is the same in all."""
    alpha, grey = np.broadcast_to(np.linspace(0, 1, WIDTH), (HEIGHT, WIDTH)), 0.6
    stored = {ON_BLACK: grey * alpha, ON_WHITE: grey * alpha + 1 - alpha}.get(mode, np.full_like(alpha, grey))
    if pixels.startswith("yuva"):
        chroma = np.full((HEIGHT, WIDTH), 512, np.uint16)
        planes = [np.round(64 + 876 * stored), chroma, chroma, np.round(alpha * 1023)]
        frame = frame_of([plane.astype(np.uint16) for plane in planes], pixels)
    else:
        top, kind = (65535, ">u2") if "64" in pixels else (255, np.uint8)
        parts = [stored, stored, stored]
        order = [*parts, alpha] if pixels.startswith("rgba") else [alpha, *parts]
        frame = frame_of([np.round(np.stack(order, -1) * top).astype(kind)], pixels)
    path = write_movie(tmp_path / "a.mov", [frame] * 3, codec=codec)
    rewritten(
        path,
        (*TABLES[:4], b"vmhd"),
        lambda content: box(b"vmhd", content[:4], struct.pack(">H", mode), content[6:]),
    )
    seen = read_clip(path, CUT).frames[0]
    assert np.abs(seen - (grey * alpha * 255)[..., None]).max() < (3.5 if codec == "prores_ks" else 1.6)


@pytest.mark.parametrize("first", ["picture", "depth"])
@pytest.mark.parametrize("side", [48, 96])
def test_what_only_adds_to_a_video_is_none(tmp_path: Path, first: str, side: int) -> None:
    """Depth and alpha in tracks of their own have the handler `auxv`; libav calls them videos."""
    path = tmp_path / "a.mov"
    kinds = ["picture", "depth"] if first == "picture" else ["depth", "picture"]
    with av.open(str(path), "w", format="mov") as container:
        streams = {}
        for kind in kinds:
            stream = streams[kind] = container.add_stream("libx264", rate=30)
            stream.width = stream.height = side if kind == "depth" else 64
            stream.pix_fmt, stream.options = "yuv420p", {"qp": "1", "preset": "ultrafast"}
        for number in range(8):
            for kind, stream in streams.items():
                grey = np.full((stream.height, stream.width, 3), 200 if kind == "depth" else 60, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(frame))
        for stream in streams.values():
            container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    place = data.index(b"mhlrvide") if first == "depth" else data.rindex(b"mhlrvide")
    data[place : place + 8] = b"mhlrauxv"
    path.write_bytes(data)
    seen = read_clip(path, Cut(frames=4, least=4, fps=30, width=64, height=64)).frames
    assert np.abs(seen.mean() - 60) < 2
