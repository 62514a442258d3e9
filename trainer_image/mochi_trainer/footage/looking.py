"""Cut one clip into files and look at its pictures on the way: the unit of work of a reader for the stage trim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mochi_api.clips import ClipWarning
from mochi_trainer.footage.quality import looked_at, warnings_of
from mochi_trainer.footage.signatures import Signature, recognised_by, signature_of
from mochi_trainer.video import Cut, Limits, cut_clip, read_frames


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
    """As `cut_clip`, with the warnings about the pictures and what they are recognised by."""
    wanted = {*looked_at(cut.frames), *recognised_by(cut.frames)}
    done = cut_clip(path, cut, limits, movie, stills, count, width, wanted)
    pictures = done.looked_at if done.frames == cut.frames else dict(enumerate(read_frames(movie)))
    looked = {number: pictures[number] for number in looked_at(done.frames)}
    return Looked(
        frames=done.frames,
        enlargement=done.enlargement,
        warnings={**done.warnings, **{warned.kind: warned.message for warned in warnings_of(looked)}},
        signature=signature_of(pictures, done.frames),
    )
