"""Encode frames: H.264 that plays everywhere, and MagicYUV without loss for intermediate clips."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from mochi_trainer.video.framing import Picture
from mochi_trainer.video.reading import Frames

GREEN_BLUE_RED = (1, 2, 0)
"""The planes of `gbrp` among the channels of a picture."""

BT709 = 1
LIMITED_RANGE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """Of a file."""

    container: str
    codec: str
    pixels: str
    matrix: str | None
    options: Mapping[str, str]
    """Of the codec."""

    layout: Mapping[str, str]
    """Options of the container."""


PLAYABLE = _Form(
    container="mp4",
    codec="libx264",
    pixels="yuv420p",
    matrix="ITU709",
    options={"crf": "16", "preset": "medium", "threads": "1", "x264-params": "cpu-independent=1"},
    layout={"movflags": "+faststart"},
)
"""The same frames give the same bytes. Left to itself x264 takes as many threads as there are cores, on which its output
depends, and processor instructions with which it rounds now this way and now that."""

LOSSLESS = _Form(
    container="mov",
    codec="magicyuv",
    pixels="gbrp",
    matrix=None,
    options={"pred": "gradient", "threads": "1"},
    layout={},
)
"""MagicYUV in QuickTime, which FFmpeg, mpv and VLC play: each picture by itself, in half of the time and a tenth of the memory
of x264 without loss, for a fifth to two fifths more bytes."""


def encode_mp4(frames: Frames, path: Path | str, *, fps: int) -> None:
    """Write (T, H, W, 3) uint8 RGB, H and W even, as H.264 4:2:0 with the index in front, for any player."""
    write_mp4(frames, path, fps=fps, height=frames.shape[1], width=frames.shape[2])


def write_mp4(pictures: Iterable[Picture], path: Path | str, *, fps: int, height: int, width: int) -> None:
    """As `encode_mp4`, with pictures (H, W, 3) that come one by one; raises OSError when the disk is full."""
    if height % 2 or width % 2:
        raise ValueError(f"H.264 4:2:0 needs an even width and height, got {width}x{height}")
    _encode(pictures, (height, width), path, fps, PLAYABLE)


def encode_lossless(frames: Frames, path: Path, *, fps: int) -> None:
    """Write (T, H, W, 3) uint8 RGB so that reading gives the same pixels, and the same frames the same bytes."""
    write_lossless(frames, path, fps=fps, height=frames.shape[1], width=frames.shape[2])


def write_lossless(pictures: Iterable[Picture], path: Path, *, fps: int, height: int, width: int) -> None:
    """As `encode_lossless`, with pictures (H, W, 3) that come one by one; raises OSError when the disk is full."""
    _encode(pictures, (height, width), path, fps, LOSSLESS)


def _encode(
    pictures: Iterable[Picture], size: tuple[int, int], path: Path | str, fps: int, form: _Form
) -> None:
    try:
        with av.open(str(path), "w", format=form.container, options=dict(form.layout)) as file:
            stream: Any = file.add_stream(form.codec, rate=fps, options=dict(form.options))
            stream.height, stream.width = size
            stream.pix_fmt = form.pixels
            if form.matrix:
                _tell_bt709(stream.codec_context)
            planes = None if form.matrix else av.VideoFrame(size[1], size[0], form.pixels)
            for picture in pictures:
                frame = _planar(picture, planes) if planes else _converted(picture, form)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
    except av.FFmpegError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT} and not isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _converted(picture: Picture, form: _Form) -> Any:
    packed = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return packed.reformat(format=form.pixels, dst_colorspace=form.matrix)


def _planar(picture: Picture, frame: Any) -> Any:
    """The same frame for each picture: an encoder of pictures by themselves is done with one when the next comes."""
    height, width = picture.shape[:2]
    for plane, channel in zip(frame.planes, GREEN_BLUE_RED, strict=True):
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width] = picture[..., channel]
    frame.pts = None
    return frame


def _tell_bt709(context: Any) -> None:
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
