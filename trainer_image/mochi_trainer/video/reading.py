"""Clips as a player shows them: frames at a constant rate and a given size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mochi_api.clips import ClipReason, ClipWarning
from mochi_trainer.clip_error import ClipError
from mochi_trainer.cpus import available
from mochi_trainer.video.colours import Converter
from mochi_trainer.video.framing import Picture
from mochi_trainer.video.hdr import Transfer
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.presentation import none_shown, nothing_shown, presentation
from mochi_trainer.video.rendering import Renderer
from mochi_trainer.video.selection import is_wanted, on_screen
from mochi_trainer.video.signatures import convert_command
from mochi_trainer.video.streams import Opened, Probe, clip_errors, decoded, opened
from mochi_trainer.video.timeline import Held, Timed

Frames = NDArray[np.uint8]
"""(T, H, W, 3), RGB."""

THREADS = 4
"""That decode one clip at most, where no others are read at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Which pictures of a clip are wanted."""

    frames: int
    """The most that are taken."""

    least: int
    """Fewer are an error."""

    fps: float
    width: int
    height: int
    start_seconds: float = 0.0
    """Time of the presentation at which the first one's interval begins, counted from the first picture shown."""

    crop_x: float = 0.5
    """Where the window lies in what is left over: 0 left, 0.5 in the centre, 1 right."""

    crop_y: float = 0.5
    """0 top, 1 bottom."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """Pictures of one clip and what is worth knowing of them."""

    frames: Frames
    """(T, H, W, 3) uint8, RGB, BT.709 in full range."""

    enlargement: float
    """How much larger a source pixel became; at most 1 where no detail is missing."""

    warnings: Mapping[ClipWarning, str]
    source: Probe


@dataclass(slots=True)
class Reading:
    """One clip being read; what it says of itself is complete when its pictures have been taken."""

    clip: Opened
    cut: Cut
    source: Probe
    _renderer: Renderer
    count: int = 0
    _lasted: float | None = None
    """How long pictures have been there; None before the first."""
    _interlaced: list[float] = field(default_factory=list)

    @property
    def enlargement(self) -> float:
        """How much larger a source pixel became."""
        return self._renderer.enlargement

    def pictures(self) -> Iterator[Picture]:
        """The pictures (H, W, 3) in order, each the same object as the one before where it is repeated.

        Raises ClipError when the file cannot be decoded that far or ends before `least`.
        """
        with clip_errors("cannot be decoded"):
            for held in self._shown():
                self.count += 1
                yield held.made(self._renderer.picture)
            if self.count < self.cut.least:
                raise self._too_short()

    def warnings(self) -> dict[ClipWarning, str]:
        """What happened to the pictures that a person may want to look at."""
        found: dict[ClipWarning, str] = {}
        if self.enlargement > 1:
            found[ClipWarning.UPSCALED] = upscaled(self.cut, self.enlargement)
        if hdr := sorted(self._renderer.transfers - {Transfer.SDR}):
            found[ClipWarning.HDR_CONVERTED] = f"HDR ({', '.join(hdr)}) was tone-mapped to BT.709"
        if self._interlaced:
            found[ClipWarning.DEINTERLACED] = (
                f"interlaced from {self._interlaced[0]:.2f} s on, was made progressive"
            )
        return found

    def _shown(self) -> Iterator[Held]:
        """Frames; one that is repeated comes again."""
        timed, zero = presentation(self.clip, start=self.cut.start_seconds, interlaced=self._interlaced)
        return on_screen(self._rendered(timed, zero), fps=self.cut.fps, count=self.cut.frames, zero=zero)

    def _rendered(self, timed: Iterator[Timed], zero: float) -> Iterator[tuple[float, float, Held]]:
        """As given, with their pictures made at once where they will be wanted if they stay as long as they say.

        Whether they do is known with the next frame, and what is decoded by then is large.
        """
        for at, lasts, held in timed:
            seconds, duration = float(at), float(lasts)
            self._lasted = seconds + duration - zero
            if is_wanted(seconds - zero, duration, fps=self.cut.fps, count=self.cut.frames):
                held.made(self._renderer.picture)
            yield seconds, duration, held

    def _too_short(self) -> ClipError:
        cut, there = self.cut, self.count
        if (lack := self.clip.lack) is not None:
            return ClipError(f"{lack}, with {there} of {cut.least} frames at {cut.fps:g} fps", lack.reason)
        if there == 0 and cut.start_seconds == 0:
            return nothing_shown() if self._lasted is None else none_shown(self._lasted, cut.fps)
        behind = f" after {cut.start_seconds:g} s" if cut.start_seconds else ""
        return ClipError(
            f"{cut.least} frames at {cut.fps:g} fps take {cut.least / cut.fps:.2f} s, "
            f"the clip has {there} ({there / cut.fps:.2f} s){behind}",
            ClipReason.TOO_SHORT,
        )


@contextmanager
def reading(path: Path, cut: Cut, limits: Limits) -> Iterator[Reading]:
    """A clip open for taking its pictures one by one; raise ClipError when it cannot be opened."""
    with opened(path, limits) as clip:
        renderer = Renderer(
            cut.width,
            cut.height,
            clip.pixel_aspect,
            clip.converter(),
            clip.description.aperture,
            cut.crop_x,
            cut.crop_y,
        )
        yield Reading(clip, cut, clip.probe(), renderer)


def read_clip(path: Path, cut: Cut, limits: Limits | None = None) -> Clip:
    """The pictures of `cut`, as a player shows them, read in this process.

    Raises ClipError for whatever is the file's fault. `Readers` reads in processes that can be given up.
    """
    with reading(path, cut, limits or Limits()) as clip:
        frames = list(clip.pictures())
        return Clip(
            frames=np.stack(frames) if frames else np.empty((0, cut.height, cut.width, 3), np.uint8),
            enlargement=clip.enlargement,
            warnings=clip.warnings(),
            source=clip.source,
        )


def upscaled(cut: Cut, enlargement: float) -> str:
    """What is said of pictures that were made larger."""
    return f"smaller than {cut.width}x{cut.height}: enlarged {enlargement:.2f} times"


def read_frames(path: Path, most: int | None = None) -> Frames:
    """All frames of a clip as they are, or the first `most` of them: (T, H, W, 3); for clips that this program wrote, which
    it decodes with several threads."""
    with opened(path, Limits(threads=min(available(), THREADS))) as clip, clip_errors("cannot be decoded"):
        count = clip.stream.frames if most is None else min(most, clip.stream.frames)
        frames = np.empty((count, clip.stream.height, clip.stream.width, 3), np.uint8)
        converter, read = Converter(), 0
        for picture, timed in zip(frames, decoded(clip), strict=False):
            for channel, plane in enumerate(converter.colours(timed.held.frame).planes):
                picture[..., channel] = plane
            read += 1
        return frames[:read]


def pictures_of(path: Path) -> Iterator[Picture]:
    """As `read_frames`, the pictures (H, W, 3) one by one."""
    converter = Converter()
    with opened(path, Limits()) as clip, clip_errors("cannot be decoded"):
        for timed in decoded(clip):
            yield np.stack(converter.colours(timed.held.frame).planes, axis=-1)


def probe(path: Path) -> Probe:
    """What the file contains; raise ClipError when it is empty, no MP4 or MOV, or has no video."""
    with opened(path, Limits()) as clip:
        return clip.probe()


__all__ = [
    "Clip",
    "Cut",
    "Frames",
    "Picture",
    "Probe",
    "Reading",
    "convert_command",
    "pictures_of",
    "probe",
    "read_clip",
    "read_frames",
    "reading",
    "upscaled",
]
