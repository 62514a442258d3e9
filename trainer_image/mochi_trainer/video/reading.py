"""Clips as a player shows them: frames at a constant rate and a given size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mochi_api.clips import ClipReason, ClipWarning
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.colours import Converter
from mochi_trainer.video.framing import Picture, framing
from mochi_trainer.video.hdr import Transfer, tone_mapped
from mochi_trainer.video.interlacing import progressive
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.orientation import orientation_of
from mochi_trainer.video.selection import on_screen
from mochi_trainer.video.signatures import convert_command
from mochi_trainer.video.streams import SEEK_FROM, Opened, Probe, clip_errors, decoded, frames_from, opened
from mochi_trainer.video.timeline import Segment, Timed, left_of, segments

Frames = NDArray[np.uint8]
"""(T, H, W, 3), RGB."""


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
    _converter: Converter
    enlargement: float = 1.0
    count: int = 0
    _transfers: set[Transfer] = field(default_factory=set)
    _interlaced: list[float] = field(default_factory=list)

    def pictures(self) -> Iterator[Picture]:
        """The pictures (H, W, 3) in order, each the same object as the one before where it is repeated.

        Raises ClipError when the file cannot be decoded that far or ends before `least`.
        """
        with clip_errors("cannot be decoded"):
            last: Any = None
            for frame in self._shown():
                if frame is not last:
                    last, picture = frame, self._picture(frame)
                self.count += 1
                yield picture
            if self.count < self.cut.least:
                raise self._too_short()

    def warnings(self) -> dict[ClipWarning, str]:
        """What happened to the pictures that a person may want to look at."""
        found: dict[ClipWarning, str] = {}
        if self.enlargement > 1:
            found[ClipWarning.UPSCALED] = (
                f"smaller than {self.cut.width}x{self.cut.height}: enlarged {self.enlargement:.2f} times"
            )
        if hdr := sorted(self._transfers - {Transfer.SDR}):
            found[ClipWarning.HDR_CONVERTED] = f"HDR ({', '.join(hdr)}) was tone-mapped to BT.709"
        if self._interlaced:
            found[ClipWarning.DEINTERLACED] = (
                f"interlaced from {self._interlaced[0]:.2f} s on, was made progressive"
            )
        return found

    def _shown(self) -> Iterator[Any]:
        timed, zero = self._from_start()
        seconds = ((float(at), float(duration), frame) for at, duration, frame in timed)
        return on_screen(seconds, fps=self.cut.fps, count=self.cut.frames, zero=zero)

    def _from_start(self) -> tuple[Iterator[Timed], float]:
        """Frames of the presentation, and when the first interval begins."""
        parts = segments(self.clip.header.edits(self.clip.stream.id))
        timed = self._presented(parts, again=False)
        first = next(timed, None)
        if first is None:
            return timed, 0.0
        zero = first.seconds + Fraction(self.cut.start_seconds)
        if self.cut.start_seconds >= SEEK_FROM:
            return self._presented(left_of(parts, zero), again=True), float(zero)
        return chain((first,), timed), float(zero)

    def _presented(self, parts: Sequence[Segment], *, again: bool) -> Iterator[Timed]:
        for number, part in enumerate(parts):
            frames = frames_from(self.clip, part.media, again=again or number > 0)
            yield from part.shown(progressive(frames, self._interlaced))

    def _picture(self, frame: Any) -> Picture:
        colours = self._converter.colours(frame)
        turned = orientation_of(frame)
        planes = [np.ascontiguousarray(turned.apply(plane)) for plane in colours.planes]
        aspect = self.clip.pixel_aspect
        height, width = planes[0].shape
        cut = self.cut
        box = framing(
            width,
            height,
            cut.width,
            cut.height,
            pixel_aspect=1 / aspect if turned.lies else aspect,
            crop_x=cut.crop_x,
            crop_y=cut.crop_y,
        )
        self.enlargement = box.enlargement
        self._transfers.add(colours.transfer)
        picture = np.stack([box.apply(plane) for plane in planes], axis=-1)
        if colours.transfer is Transfer.SDR:
            return picture
        return tone_mapped(picture, colours.full, colours.transfer, colours.primaries)

    def _too_short(self) -> ClipError:
        cut, there = self.cut, self.count
        if self.clip.cut_off:
            return ClipError(
                f"{self.clip.cut_off}, with {there} of {cut.least} frames at {cut.fps:g} fps",
                ClipReason.CORRUPT,
            )
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
        chroma = clip.header.track(clip.stream.id).chroma
        yield Reading(clip, cut, clip.probe(), Converter(chroma))


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


def read_frames(path: Path) -> Frames:
    """All frames of a clip as they are: (T, H, W, 3); for clips that this program wrote."""
    return np.stack(list(pictures_of(path)))


def pictures_of(path: Path) -> Iterator[Picture]:
    """As `read_frames`, the pictures (H, W, 3) one by one."""
    converter = Converter()
    with opened(path, Limits()) as clip, clip_errors("cannot be decoded"):
        for timed in decoded(clip):
            yield np.stack(converter.colours(timed.frame).planes, axis=-1)


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
]
