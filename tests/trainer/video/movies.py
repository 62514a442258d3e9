"""Movies of given planes, in any codec and container, tagged as asked; and what they should look like, by definition."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

PRIMES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""(Kr, Kb) of the matrices of ITU-T H.273."""

SITES = {0: (0.0, 0.5), 1: (0.5, 0.5), 2: (0.0, 0.0), 3: (0.5, 0.0), 4: (0.0, 1.0), 5: (0.5, 1.0)}
"""Place of the first sample of chroma in units of luma, by the chroma_loc of H.264."""

LOSSLESS = {
    "libx264": {"qp": "0", "preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "lossless=1:log-level=none"},
    "libvpx-vp9": {"lossless": "1", "deadline": "realtime", "cpu-used": "8"},
}


def frame_of(planes: Sequence[np.ndarray], pixels: str) -> av.VideoFrame:
    """A frame of planes (H, W), or of one array (H, W, C) where they are packed."""
    height, width = planes[0].shape[:2]
    frame = av.VideoFrame(width, height, pixels)
    for target, plane in zip(frame.planes, planes, strict=True):
        wide = plane.reshape(plane.shape[0], -1)
        rows = np.frombuffer(target, wide.dtype).reshape(target.height, target.line_size // wide.itemsize)
        rows[:, : wide.shape[1]] = wide
    return frame


def write_movie(
    path: Path,
    frames: Sequence[av.VideoFrame],
    *,
    codec: str = "libx264",
    fps: int = 30,
    matrix: int | None = None,
    full: bool = False,
    transfer: int | None = None,
    primaries: int | None = None,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    codec_tag: str | None = None,
) -> Path:
    """Write frames at a constant rate; the container follows the ending of `path`."""
    with av.open(str(path), "w", format=path.suffix[1:]) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = frames[0].format.name
        stream.options = LOSSLESS.get(codec, {}) | (options or {})
        context = stream.codec_context
        context.color_range = 2 if full else 1
        if matrix is not None:
            context.colorspace = matrix
        if transfer is not None:
            context.color_trc = transfer
        if primaries is not None:
            context.color_primaries = primaries
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if codec_tag is not None:
            context.codec_tag = codec_tag
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, fps)
            frame.color_range = context.color_range
            if matrix is not None:
                frame.colorspace = matrix
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def literal_rgb(
    planes: Sequence[np.ndarray],
    *,
    matrix: int,
    full: bool = False,
    bits: int = 8,
    site: tuple[float, float] = (0, 0.5),
) -> np.ndarray:
    """RGB in 0..255 as floats (H, W, 3) of YUV planes, from the formulas of H.273; chroma interpolated linearly."""
    luma = planes[0].astype(float)
    height, width = luma.shape
    u, v = (_upsampled(plane.astype(float), height, width, site) for plane in planes[1:3])
    top, unit = (1 << bits) - 1, 1 << (bits - 8)
    y = luma / top if full else (luma - 16 * unit) / (219 * unit)
    cb, cr = ((plane - 128 * unit) / (top if full else 224 * unit) for plane in (u, v))
    kr, kb = PRIMES[matrix]
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], -1) * 255, 0, 255)


def _upsampled(plane: np.ndarray, height: int, width: int, site: tuple[float, float]) -> np.ndarray:
    plane = _along(plane, width, site[0]) if plane.shape[1] != width else plane
    return _along(plane.T, height, site[1]).T if plane.shape[0] != height else plane


def _along(plane: np.ndarray, length: int, first: float) -> np.ndarray:
    """Rows (H, n) interpolated to (H, length): sample k lies at first + 2 k."""
    place = (np.arange(length) - first) / 2
    before = np.floor(place).astype(int)
    share = place - before
    last = plane.shape[1] - 1
    return plane[:, np.clip(before, 0, last)] * (1 - share) + plane[:, np.clip(before + 1, 0, last)] * share
