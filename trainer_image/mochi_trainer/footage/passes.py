"""Passes over a file of footage: one at low resolution over all of it, and one over a part of it at full quality.

The low pass holds two dozen pictures of at most 360 lines and the small pictures of one stretch, whatever the length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.footage.cuts import cuts
from mochi_trainer.footage.likeness import HEIGHT, WIDTH, Frames
from mochi_trainer.footage.quality import Warned, picture_warnings
from mochi_trainer.footage.segments import Stretch
from mochi_trainer.footage.signatures import Signature, signature
from mochi_trainer.video import on_screen

LONGEST_GAP = 1 / 31
"""Seconds between two pictures of the low pass at least: material of 50 and 60 a second is halved."""

LINES = 360
"""Of the pictures that are looked at for warnings; they are made smaller by a whole number."""

HELD = 24
"""Pictures held for warnings and for the signature, spread over the clip, at most."""

LARGEST_SIDE = 8192
"""Pixels; what claims more is refused before a picture of it takes memory."""

FULL_LINES = 720
"""Lines of the shorter side of a segment at most: training takes 480."""

TAGS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
"""Titles that are no UTF-8 are no reason to refuse a clip; newer releases have no such argument and take them."""

MOST_FRAMES = 600
"""Frames of one segment: 1.7 GB at 1280x720."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What the low pass found; times in seconds from the first picture."""

    width: int
    height: int
    fps: float
    seconds: float
    changes: tuple[Stretch, ...]
    """Changes of shot; a hard cut has no length."""

    warnings: tuple[Warned, ...]
    signature: Signature


@dataclass
class _Sparse:
    """Pictures evenly spread over a stream of unknown length: when there are too many, every other one goes."""

    stride: int = 1
    seen: int = 0
    held: list[Any] = field(default_factory=list)

    def wants(self) -> bool:
        """Whether the next picture is to be held."""
        self.seen += 1
        return (self.seen - 1) % self.stride == 0

    def hold(self, picture: Frames) -> None:
        self.held.append(picture)
        if len(self.held) == 2 * HELD:
            self.held, self.stride = self.held[::2], 2 * self.stride


def overview(path: Path) -> Overview:
    """Look at a whole file once; raise ClipError when it cannot be read to its end."""
    with _opened(path) as (container, stream):
        times: list[float] = []
        sparse = _Sparse()
        scale = -(-min(stream.height, stream.width) // LINES)
        found = list(cuts(_small(_timed(container, stream), times, sparse, scale)))
        if not times:
            raise ClipError("no picture in the video stream", ClipReason.CORRUPT)
        end = times[-1] + (times[-1] - times[0]) / max(1, len(times) - 1)
        times.append(end)
        held = np.stack(sparse.held)
        return Overview(
            width=stream.width,
            height=stream.height,
            fps=round(float(stream.average_rate or 0), 3),
            seconds=round(end - times[0], 3),
            changes=tuple(Stretch(times[cut.begin] - times[0], times[cut.end] - times[0]) for cut in found),
            warnings=tuple(picture_warnings(held, scale=scale)),
            signature=signature(held),
        )


def _small(
    timed: Iterator[tuple[float, Any]], times: list[float], sparse: _Sparse, scale: int
) -> Iterator[Frames]:
    """Small pictures for `cuts`; their times and some larger ones are left in `times` and `sparse`."""
    for seconds, frame in timed:
        if times and seconds - times[-1] < LONGEST_GAP * 0.99:
            continue
        times.append(seconds)
        if sparse.wants():
            sparse.hold(_scaled(frame, max(1, frame.width // scale), max(1, frame.height // scale)))
        yield _scaled(frame, WIDTH, HEIGHT)


def part(path: Path, stretch: Stretch) -> tuple[Frames, int]:
    """The pictures of a part of a file at a constant rate, upright, (T, H, W, 3) with even H and W; and the rate.

    Raises ClipError when the file cannot be read there or the part has more than `MOST_FRAMES`.
    """
    with _opened(path) as (container, stream):
        fps = min(60, max(1, round(float(stream.average_rate or 30))))
        count = round(stretch.seconds * fps)
        if count > MOST_FRAMES:
            limit = f"at most {MOST_FRAMES} frames ({MOST_FRAMES / fps:.1f} s at {fps} fps)"
            raise ClipError(f"a segment may have {limit}, {count} are asked for", ClipReason.TOO_LARGE)
        timed = _from(container, stream, stretch.start)
        lasting = ((seconds, 0.0, frame) for seconds, frame in timed)
        pictures = [_full(frame) for frame in on_screen(lasting, fps=fps, count=count)]
    if len(pictures) < count:
        raise ClipError(f"{len(pictures)} of {count} frames are there", ClipReason.CORRUPT)
    return np.stack(pictures), fps


def stills(path: Path, count: int) -> Frames:
    """At most `count` pictures spread over a whole clip, upright, (T, H, W, 3)."""
    sparse = _Sparse()
    with _opened(path) as (container, stream):
        for _, frame in _timed(container, stream):
            if sparse.wants():
                sparse.hold(_full(frame))
    if not sparse.held:
        raise ClipError("no picture in the video stream", ClipReason.CORRUPT)
    chosen = ((np.arange(count) + 0.5) / count * len(sparse.held)).astype(int)
    return np.stack([sparse.held[index] for index in np.unique(chosen)])


def _from(container: Any, stream: Any, start: float) -> Iterator[tuple[float, Any]]:
    """The frame on screen at `start` seconds after the first one, and those after it, from 0 on."""
    first = next(_timed(container, stream), (0.0, None))[0]
    for earlier in (1.0, 10.0, start):  # a keyframe may be shown after the moment that was asked for
        container.seek(
            int(max(0.0, start - earlier) / stream.time_base) + (stream.start_time or 0), stream=stream
        )
        timed = _timed(container, stream)
        before = next(timed, None)
        if before is not None and before[0] - first <= start:
            break
    else:
        return
    yield from _later(before, timed, first + start)


def _later(
    held: tuple[float, Any], rest: Iterator[tuple[float, Any]], moment: float
) -> Iterator[tuple[float, Any]]:
    """(seconds after `moment`, frame) from the frame that is on screen then; `held` comes before it."""
    begun = False
    for following in rest:
        if following[0] > moment:
            yield max(0.0, held[0] - moment), held[1]
            begun = True
        held = following
    if begun or held[0] >= moment:
        yield max(0.0, held[0] - moment), held[1]


def _full(frame: Any) -> Frames:
    """A picture upright, its shorter side at most `FULL_LINES`, both sides even."""
    scale = min(1.0, FULL_LINES / min(frame.width, frame.height))
    size = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(_scaled(frame, *size), turns))


def _scaled(frame: Any, width: int, height: int) -> Frames:
    pixels: Frames = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return pixels


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its best video stream, as MP4 or MOV and nothing else."""
    try:
        with av.open(str(path), format="mov", **TAGS) as container:
            pictures = [stream for stream in container.streams.video if stream.codec_context is not None]
            moving = [stream for stream in pictures if not stream.disposition & _ATTACHED]
            if not moving:
                raise ClipError("no moving picture in the file", ClipReason.NO_VIDEO_STREAM)
            stream = max(moving, key=lambda stream: stream.width * stream.height)
            if max(stream.width, stream.height) > LARGEST_SIDE:
                size = f"{stream.width}x{stream.height}"
                raise ClipError(
                    f"the picture is {size}, a side may have {LARGEST_SIDE} pixels", ClipReason.TOO_LARGE
                )
            _check_whole(path, stream)
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        said = (error.strerror or "unknown error").lower()
        raise ClipError(f"cannot be read as MP4 or MOV: {said}", ClipReason.CORRUPT) from error


def _check_whole(path: Path, stream: Any) -> None:
    """Raise ClipError for a file that ends before its pictures do: decoders take that for the end of the film."""
    there, last = path.stat().st_size, 0
    for entry in stream.index_entries[-64:]:
        last = max(last, entry.pos + entry.size)
    if last > there:
        raise ClipError(
            f"cut off: the last picture ends at byte {last}, the file has {there}", ClipReason.CORRUPT
        )


_ATTACHED = av.stream.Disposition.attached_pic


def _timed(container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
    """(seconds, frame) of all frames in the order of time."""
    for frame in container.decode(stream):
        if frame.pts is not None:
            yield float(frame.pts * Fraction(frame.time_base)), frame
