"""Decode clips: what is in a file, and its frames at a constant rate and a given size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.video.framing import Picture, framing
from mochi_trainer.video.selection import on_screen

Frames = NDArray[np.uint8]
"""(T, H, W, 3), RGB."""

CONTAINERS = {"mov", "mp4"}
BT709 = 1
UNSPECIFIED = 2
HD_LINES = 720
"""From this height on, video that does not say its colour matrix uses BT.709."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a file says of its first video stream, before rotation."""

    width: int
    height: int
    fps: float
    """Mean rate; 0 when unknown."""

    seconds: float
    """Duration; 0 when unknown."""

    codec: str
    pixel_aspect: float


def convert_command(name: str) -> str:
    """The command that makes an MP4 of any video file."""
    stem = PurePosixPath(name).stem
    return f'ffmpeg -i "{PurePosixPath(name).name}" -c:v libx264 -crf 16 -pix_fmt yuv420p -an "{stem}.mp4"'


def probe(path: Path) -> Probe:
    """What the file contains; raise ClipError when it is empty, no MP4 or MOV, or has no video."""
    with _opened(path) as (_, stream):
        context = stream.codec_context
        return Probe(
            width=context.width,
            height=context.height,
            fps=float(stream.average_rate or 0),
            seconds=float(stream.duration * stream.time_base) if stream.duration else 0.0,
            codec=context.name,
            pixel_aspect=float(stream.sample_aspect_ratio or 1) or 1.0,
        )


def read_clip(
    path: Path, *, frames: int, least: int, fps: int, width: int, height: int
) -> tuple[Frames, float]:
    """The first `frames` pictures at `fps`, upright, cut and scaled: (T, H, W, 3), and the enlargement that took.

    Raises ClipError when the file cannot be decoded that far or holds fewer than `least`.
    """
    pictures: list[Picture] = []
    enlargement = 1.0
    with _opened(path) as (container, stream):
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        for frame in on_screen(_timed(container, stream), fps=fps, count=frames):
            upright, pixel_aspect = _upright(_rgb(frame), frame.rotation, aspect)
            box = framing(upright.shape[1], upright.shape[0], width, height, pixel_aspect=pixel_aspect)
            enlargement = box.enlargement
            pictures.append(box.apply(upright))
    if len(pictures) < least:
        raise ClipError(
            f"{least} frames at {fps} fps take {least / fps:.2f} s, "
            f"the clip has {len(pictures)} ({len(pictures) / fps:.2f} s)",
            ClipReason.TOO_SHORT,
        )
    return np.stack(pictures), enlargement


def read_frames(path: Path) -> Frames:
    """All frames of a clip as they are: (T, H, W, 3); for clips that this program wrote."""
    with _opened(path) as (container, stream):
        return np.stack([_rgb(frame) for _, frame in _timed(container, stream)])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    if path.stat().st_size == 0:
        raise ClipError("the file is empty (0 bytes)", ClipReason.CORRUPT)
    try:
        with av.open(str(path)) as container:
            names = set(container.format.name.split(","))
            if not names & CONTAINERS:
                raise ClipError(
                    f"not MP4 or MOV but {container.format.name}; convert it: {convert_command(path.name)}",
                    ClipReason.UNSUPPORTED,
                )
            if not container.streams.video:
                raise ClipError("no video stream in the file", ClipReason.NO_VIDEO_STREAM)
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise ClipError(f"cannot be read as MP4 or MOV: {_said(error)}", ClipReason.CORRUPT) from error


def _timed(container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
    """(seconds, frame) of all frames; ClipError where the data is damaged, naming the time."""
    seconds = 0.0
    stream.thread_type = "AUTO"
    frames = iter(container.decode(stream))
    while True:
        try:
            frame = next(frames)
        except (StopIteration, EOFError):
            return
        except av.FFmpegError as error:
            raise ClipError(f"damaged after {seconds:.2f} s: {_said(error)}", ClipReason.CORRUPT) from error
        if frame.pts is None:
            raise ClipError(f"damaged after {seconds:.2f} s: a frame without a time", ClipReason.CORRUPT)
        seconds = float(frame.pts * Fraction(frame.time_base))
        if frame.is_corrupt:
            raise ClipError(f"damaged at {seconds:.2f} s: a frame is only partly there", ClipReason.CORRUPT)
        yield seconds, frame


def _said(error: av.FFmpegError) -> str:
    return (error.strerror or "unknown error").lower()


def _rgb(frame: Any) -> Picture:
    """Pixels of a frame; the colour matrix is guessed by the height when the file does not say it."""
    guess = "ITU709" if frame.colorspace == UNSPECIFIED and frame.height >= HD_LINES else None
    pixels: Picture = frame.to_ndarray(format="rgb24", src_colorspace=guess)
    return pixels


def _upright(picture: Picture, rotation: int, pixel_aspect: float) -> tuple[Picture, float]:
    """The picture as players show it. `rotation` is counter-clockwise, in degrees."""
    turns = round(rotation / 90) % 4
    if turns % 2:
        pixel_aspect = 1 / pixel_aspect
    return np.ascontiguousarray(np.rot90(picture, turns)), pixel_aspect
