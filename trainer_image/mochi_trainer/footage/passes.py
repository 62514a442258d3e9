"""Passes over a file of footage: at low resolution over all of it, and over a part of it at full quality.

Files are read by `mochi_trainer.video`, within limits; whoever does not know where they come from calls these functions
in its worker processes (`Readers`). The low pass holds two dozen pictures of at most 360 lines and the small pictures of
one stretch, whatever the length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.footage.cuts import OVERLAP, cuts
from mochi_trainer.footage.likeness import HEIGHT, WIDTH, Frames
from mochi_trainer.footage.quality import Warned, picture_warnings
from mochi_trainer.footage.segments import Stretch
from mochi_trainer.footage.signatures import Signature, signature
from mochi_trainer.video import (
    Cut,
    Limits,
    Opened,
    Probe,
    Renderer,
    clip_errors,
    opened,
    presentation,
    reading,
    upright_size,
    window_of,
    write_mp4,
)

LONGEST_GAP = 1 / 31
"""Seconds between two pictures of the low pass at least: material of 50 and 60 a second is halved."""

PART, LEAST_PART = 120.0, 20.0
"""Seconds of film that are looked at in one call of a reader, up to 4K at 30 frames a second: what is decoded four times
slower than it plays is done within the limits of a clip, and the stage moves meanwhile. Of larger or faster films less."""

LOAD = 3840 * 2160 * 30
"""Pixels a second of a film that is looked at in parts of `PART`."""

MARGIN = 2 * OVERLAP * LONGEST_GAP
"""Seconds of film that are looked at on both sides of a part."""

WHOLE = Stretch(0.0, math.inf)

LINES = 360
"""Of the pictures that are looked at for warnings; they are made smaller by a whole number."""

HELD = 24
"""Pictures held for warnings and for the signature, spread over the clip, at most."""

FULL_LINES = 720
"""Lines of the shorter side of a segment at most: training takes 480."""

MOST_FRAMES = 600
"""Frames of one segment."""

HOUR = 3600
FILM = Limits(
    seconds=24.0 * HOUR,
    samples=10_000_000,
    wall_seconds=6.0 * HOUR,
    cpu_seconds=24 * HOUR,
    memory_bytes=8 << 30,
    threads=8,
)
"""Of one film on a workstation, where nobody waits for it: a day long, and as much time as that takes."""


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


def overview(path: Path, limits: Limits = FILM) -> Overview:
    """Look at a whole file once; raise ClipError when it cannot be read to its end."""
    with opened(path, limits) as clip:
        source = clip.probe()
        scale = -(-min(source.height, source.width) // LINES)
        times: list[float] = []
        sparse = _Sparse()
        changes = _changes(clip, times, sparse, scale)
        held = np.stack(sparse.held)
        return Overview(
            width=source.width,
            height=source.height,
            fps=round(source.fps, 3),
            seconds=round(_end(times), 3),
            changes=changes,
            warnings=tuple(picture_warnings(held, scale=scale)),
            signature=signature(held),
        )


def changes_of_shot(path: Path, limits: Limits, part: Stretch | None = None) -> tuple[Stretch, ...]:
    """The changes of shot of a whole file, in seconds from its first picture; raise ClipError as `overview` does.

    With `part` those that begin in it; as much of the film as a change may need is looked at on both sides.
    """
    if part is None:
        with opened(path, limits) as clip:
            return _changes(clip, [], None, 1)
    around = Stretch(max(0.0, part.start - MARGIN), part.end + MARGIN)
    with opened(path, limits) as clip:
        found = _changes(clip, [], None, 1, around)
    return tuple(change for change in found if part.start <= change.start < part.end)


def parts_of_film(seconds: float, source: Probe | None = None) -> list[Stretch]:
    """A film in parts, each of which can be looked at within the limits of one clip; the last one is open at its end."""
    load = source.width * source.height * source.fps if source is not None else 0.0
    part = max(LEAST_PART, PART * min(1.0, LOAD / max(load, 1.0)))
    count = max(1, math.ceil(seconds / part))
    return [Stretch(number * part, (number + 1) * part) for number in range(count - 1)] + [
        Stretch((count - 1) * part, math.inf)
    ]


def _changes(
    clip: Opened, times: list[float], sparse: _Sparse | None, scale: int, around: Stretch = WHOLE
) -> tuple[Stretch, ...]:
    """Changes of shot; times of the pictures looked at, and some larger ones, are left in `times` and `sparse`."""
    found = list(cuts(_small(clip, times, sparse, scale, around)))
    if (lack := clip.lack) is not None:  # decoders take that for the end of the film
        raise lack
    if not times:
        raise ClipError("no picture in the video stream", ClipReason.CORRUPT)
    ends = [*times, _end(times)]
    return tuple(Stretch(ends[cut.begin], ends[cut.end]) for cut in found)


def _end(times: list[float]) -> float:
    return times[-1] + (times[-1] - times[0]) / max(1, len(times) - 1)


def _small(
    clip: Opened, times: list[float], sparse: _Sparse | None, scale: int, around: Stretch
) -> Iterator[Frames]:
    """Small pictures for `cuts`."""
    with clip_errors("cannot be decoded"):
        for seconds, frame in _timed(clip, around.start):
            if seconds >= around.end:
                return
            if times and seconds - times[-1] < LONGEST_GAP * 0.99:
                continue
            times.append(seconds)
            if sparse is not None and sparse.wants():
                held = _scaled(frame, max(1, frame.width // scale), max(1, frame.height // scale))
                sparse.hold(
                    window_of(clip.description.aperture, frame.width, frame.height).apply(held, scale)
                )
            yield _scaled(frame, WIDTH, HEIGHT)


def _timed(clip: Opened, start: float = 0.0) -> Iterator[tuple[float, Any]]:
    """(seconds from the first picture, frame) of all frames in the order of time, from the one on screen at `start` on."""
    shown, zero = presentation(clip, start=start)
    for timed in shown:
        yield float(timed.seconds) - zero + start, timed.held.frame


def _scaled(frame: Any, width: int, height: int) -> Frames:
    pixels: Frames = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return pixels


def write_part(path: Path, stretch: Stretch, to: Path, limits: Limits = FILM) -> None:
    """Write a part of a file, upright and at a constant rate, as H.264; its shorter side has at most `FULL_LINES`.

    Raises ClipError when the file cannot be read there or the part has more than `MOST_FRAMES`, OSError for the disk.
    """
    with opened(path, limits) as clip:
        fps = min(60, max(1, round(clip.probe().fps or 30)))
        width, height = _size(clip)
    count = round(stretch.seconds * fps)
    if count > MOST_FRAMES:
        limit = f"at most {MOST_FRAMES} frames ({MOST_FRAMES / fps:.1f} s at {fps} fps)"
        raise ClipError(f"a segment may have {limit}, {count} are asked for", ClipReason.TOO_LARGE)
    cut = Cut(
        frames=count, least=count, fps=fps, width=width, height=height, start_seconds=max(0.0, stretch.start)
    )
    with reading(path, cut, limits) as film:
        write_mp4(film.pictures(), to, fps=fps, height=height, width=width)


def stills(path: Path, count: int, limits: Limits = FILM) -> Frames:
    """At most `count` pictures spread over a whole clip, upright, (T, H, W, 3)."""
    sparse = _Sparse()
    with opened(path, limits) as clip:
        width, height = _size(clip)
    with opened(path, limits) as clip, clip_errors("cannot be decoded"):
        renderer = Renderer(width, height, clip.pixel_aspect, clip.converter(), clip.description.aperture)
        for _, frame in _timed(clip):
            if sparse.wants():
                sparse.hold(renderer.picture(frame))
    chosen = ((np.arange(count) + 0.5) / count * len(sparse.held)).astype(int)
    return np.stack([sparse.held[index] for index in np.unique(chosen)])


def _size(clip: Opened) -> tuple[int, int]:
    """Width and height of a clip upright, both even, the shorter one at most `FULL_LINES`."""
    with clip_errors("cannot be decoded"):
        first = next(_timed(clip), None)
    if first is None:
        raise ClipError("no picture in the video stream", ClipReason.CORRUPT)
    sides = upright_size(first[1], clip.pixel_aspect, clip.description.aperture)
    scale = min(1.0, FULL_LINES / min(sides))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in sides)
    return width, height
