"""The unit of work of a reader: cut one clip into files, a picture at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mochi_api.clips import ClipWarning
from mochi_trainer.video.framing import Picture
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.pictures import strip
from mochi_trainer.video.reading import Cut, Probe, read_frames, reading
from mochi_trainer.video.writing import write_lossless


@dataclass(frozen=True, kw_only=True, slots=True)
class CutClip:
    """What was written of a clip."""

    frames: int
    enlargement: float
    warnings: Mapping[ClipWarning, str]
    source: Probe
    looked_at: Mapping[int, Picture]
    """Some of the pictures (H, W, 3), by their numbers."""


def cut_clip(
    path: Path,
    cut: Cut,
    limits: Limits,
    movie: Path,
    stills: Path,
    count: int,
    width: int,
    look_at: Collection[int] = (),
) -> CutClip:
    """Write the pictures of `cut` as a lossless `movie` and `count` of them as a strip of `width` pixels (`stills`).

    Those with the numbers `look_at` are handed back too, where there are so many.
    A few pictures are in memory at a time. Raises ClipError for the file's fault, OSError for the disk's.
    """
    with reading(path, cut, limits) as clip:
        shown = _Chosen(cut.frames, count, look_at)
        write_lossless(
            shown.of(clip.pictures()), movie, fps=round(cut.fps), height=cut.height, width=cut.width
        )
        kept = np.stack(shown.strip()) if clip.count == cut.frames else read_frames(movie)
        stills.write_bytes(strip(kept, count, width=width))
        return CutClip(
            frames=clip.count,
            enlargement=clip.enlargement,
            warnings=clip.warnings(),
            source=clip.source,
            looked_at={number: shown.kept[number] for number in look_at if number in shown.kept},
        )


class _Chosen:
    """Pictures that are put aside while they pass: those of the strip, and those to be looked at."""

    def __init__(self, expected: int, count: int, look_at: Collection[int]) -> None:
        self._strip = np.linspace(0, expected - 1, min(count, expected)).round().astype(int).tolist()
        self._wanted = {*self._strip, *look_at}
        self.kept: dict[int, Picture] = {}

    def of(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        for number, picture in enumerate(pictures):
            if number in self._wanted:
                self.kept[number] = picture
            yield picture

    def strip(self) -> list[Picture]:
        return [self.kept[number] for number in self._strip]
