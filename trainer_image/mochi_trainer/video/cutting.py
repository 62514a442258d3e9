"""The unit of work of a reader: cut one clip into files, a picture at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mochi_api.clips import ClipWarning
from mochi_trainer.video.framing import Picture
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.pictures import for_strip, joined
from mochi_trainer.video.reading import Cut, Probe, pictures_of, reading
from mochi_trainer.video.writing import write_lossless


@dataclass(frozen=True, kw_only=True, slots=True)
class CutClip:
    """What was written of a clip."""

    frames: int
    enlargement: float
    warnings: Mapping[ClipWarning, str]
    source: Probe


def cut_clip(
    path: Path,
    cut: Cut,
    limits: Limits,
    movie: Path,
    stills: Path,
    count: int,
    width: int,
    look: Callable[[int, Picture], None] = lambda _number, _picture: None,
) -> CutClip:
    """Write the pictures of `cut` as a lossless `movie` and `count` of them as a strip of `width` pixels (`stills`).

    `look` is given each picture (H, W, 3) and its number as it passes. A few pictures are in memory at a time. Raises ClipError for the file's fault, OSError for the disk's.
    """
    with reading(path, cut, limits) as clip:
        shown = _Chosen(cut.frames, count, width)
        pictures = _looked_at(shown.of(clip.pictures()), look)
        write_lossless(pictures, movie, fps=round(cut.fps), height=cut.height, width=cut.width)
        if clip.count != cut.frames:
            shown = _Chosen(clip.count, count, width)
            deque(shown.of(pictures_of(movie)), maxlen=0)
        done = CutClip(
            frames=clip.count,
            enlargement=clip.enlargement,
            warnings=clip.warnings(),
            source=clip.source,
        )
    stills.write_bytes(joined(shown.kept, width=width))
    return done


def _looked_at(pictures: Iterator[Picture], look: Callable[[int, Picture], None]) -> Iterator[Picture]:
    for number, picture in enumerate(pictures):
        look(number, picture)
        yield picture


class _Chosen:
    """Pictures that are put aside for the strip while they pass."""

    def __init__(self, expected: int, count: int, width: int) -> None:
        self._wanted = np.linspace(0, expected - 1, min(count, expected)).round().astype(int).tolist()
        self._width = width
        self.kept: list[Picture] = []

    def of(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        for number, picture in enumerate(pictures):
            if number in self._wanted:
                self.kept.append(for_strip(picture, len(self._wanted), width=self._width))
            yield picture
