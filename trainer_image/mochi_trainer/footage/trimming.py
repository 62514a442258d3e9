"""The unit of work of a reader for the stage trim: cut one clip into files, and look at its pictures as they pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mochi_trainer.footage.quality import Look
from mochi_trainer.video import Cut, CutClip, Limits, cut_clip, pictures_of


def trim_clip(
    path: Path, cut: Cut, limits: Limits, movie: Path, stills: Path, count: int, width: int
) -> CutClip:
    """As `cut_clip`, with the warnings about the pictures among those of the clip; raises what it raises."""
    look = Look(cut.frames)
    done = cut_clip(path, cut, limits, movie, stills, count, width, look.at)
    if done.frames != cut.frames:
        look = Look(done.frames)
        for number, picture in enumerate(pictures_of(movie)):
            look.at(number, picture)
    return replace(
        done, warnings={**done.warnings, **{warned.kind: warned.message for warned in look.warnings()}}
    )
