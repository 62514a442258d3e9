"""Encode frames: H.264 that plays everywhere, and a lossless form for intermediate clips."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import av

from mochi_trainer.video.framing import Picture
from mochi_trainer.video.reading import Frames

BT709 = 1
LIMITED_RANGE = 1
REPEATABLE = {"threads": "1", "x264-params": "cpu-independent=1"}
"""The same frames give the same bytes. Left to itself x264 takes as many threads as there are cores, on which its output
depends, and processor instructions with which it rounds now this way and now that."""


def encode_mp4(frames: Frames, path: Path | str, *, fps: int) -> None:
    """Write (T, H, W, 3) uint8 RGB, H and W even, as H.264 4:2:0 with the index in front, for any player."""
    write_mp4(frames, path, fps=fps, height=frames.shape[1], width=frames.shape[2])


def write_mp4(pictures: Iterable[Picture], path: Path | str, *, fps: int, height: int, width: int) -> None:
    """As `encode_mp4`, with pictures (H, W, 3) that come one by one; raises OSError when the disk is full."""
    if height % 2 or width % 2:
        raise ValueError(f"H.264 4:2:0 needs an even width and height, got {width}x{height}")
    options = {"crf": "16", "preset": "medium", **REPEATABLE}
    _encode(pictures, (height, width), path, fps, codec="libx264", pixels="yuv420p", options=options)


def encode_lossless(frames: Frames, path: Path, *, fps: int) -> None:
    """Write (T, H, W, 3) uint8 RGB so that reading gives the same pixels, and the same frames the same bytes."""
    write_lossless(frames, path, fps=fps, height=frames.shape[1], width=frames.shape[2])


def write_lossless(pictures: Iterable[Picture], path: Path, *, fps: int, height: int, width: int) -> None:
    """As `encode_lossless`, with pictures (H, W, 3) that come one by one; raises OSError when the disk is full.

    Without CABAC, which at so many bits takes two thirds of the time, to write and to read, and saves an eighth of them.
    """
    x264 = f"{REPEATABLE['x264-params']}:cabac=0"
    options = {"qp": "0", "preset": "superfast", **REPEATABLE, "x264-params": x264}
    _encode(pictures, (height, width), path, fps, codec="libx264rgb", pixels="rgb24", options=options)


def _encode(
    pictures: Iterable[Picture],
    size: tuple[int, int],
    path: Path | str,
    fps: int,
    *,
    codec: str,
    pixels: str,
    options: Mapping[str, str],
) -> None:
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream: Any = container.add_stream(codec, rate=fps, options=dict(options))
            stream.height, stream.width = size
            stream.pix_fmt = pixels
            if pixels == "yuv420p":
                _tell_bt709(stream.codec_context)
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                if pixels == "yuv420p":
                    frame = frame.reformat(format=pixels, dst_colorspace="ITU709")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT} and not isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _tell_bt709(context: Any) -> None:
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
