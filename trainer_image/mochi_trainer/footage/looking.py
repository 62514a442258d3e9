"""Cut one clip into files and look at its pictures as they pass: the unit of work of a reader for the stage trim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mochi_api.clips import ClipWarning
from mochi_trainer.footage.likeness import Frames
from mochi_trainer.footage.quality import Look
from mochi_trainer.footage.signatures import Signature, recognised_by, signature_of, small
from mochi_trainer.video import Cut, Limits, cut_clip, pictures_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """A clip that was cut."""

    frames: int
    enlargement: float
    warnings: Mapping[ClipWarning, str]
    signature: Signature


def cut_and_look(
    path: Path, cut: Cut, limits: Limits, movie: Path, stills: Path, count: int, width: int
) -> Looked:
    """As `cut_clip`, with the warnings about the pictures and what they are recognised by; raises what it raises."""
    seen = _Seen(cut.frames)
    done = cut_clip(path, cut, limits, movie, stills, count, width, seen.at)
    if done.frames != cut.frames:
        seen = _Seen(done.frames)
        for number, picture in enumerate(pictures_of(movie)):
            seen.at(number, picture)
    warnings = {warned.kind: warned.message for warned in seen.look.warnings()}
    return Looked(
        frames=done.frames,
        enlargement=done.enlargement,
        warnings={**done.warnings, **warnings},
        signature=signature_of(seen.small, done.frames),
    )


class _Seen:
    """What is kept of `count` pictures that pass."""

    def __init__(self, count: int) -> None:
        self.look = Look(count)
        self.small: dict[int, Frames] = {}
        self._recognised = set(recognised_by(count))

    def at(self, number: int, picture: Frames) -> None:
        self.look.at(number, picture)
        if number in self._recognised:
            self.small[number] = small(picture)
