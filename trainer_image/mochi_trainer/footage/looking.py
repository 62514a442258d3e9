"""Cut one clip into files and look at its pictures as they pass: the unit of work of a reader for the stage trim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mochi_api.clips import ClipWarning
from mochi_api.sizes import Bucket
from mochi_trainer.footage.likeness import Frames
from mochi_trainer.footage.quality import Look
from mochi_trainer.footage.signatures import Signature, recognised_by, signature_of, small
from mochi_trainer.video import Cut, Limits, cut_clip, pictures_of, strip, write_lossless
from mochi_trainer.video.buckets import bucket_for
from mochi_trainer.video.reading import upscaled
from mochi_trainer.video.stills import read_still


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


def still_and_look(
    path: Path, cuts: Sequence[Cut], limits: Limits, movie: Path, stills: Path, width: int
) -> tuple[Bucket, Looked]:
    """A still image as a clip of one picture, of the size among `cuts` that loses least of it; raises as `cut_and_look`."""
    still = read_still(path, limits)
    bucket = bucket_for(still.width, still.height, 1, [Bucket(1, cut.width, cut.height) for cut in cuts])
    cut = next(cut for cut in cuts if (cut.width, cut.height) == (bucket.width, bucket.height))
    picture, enlargement = still.cut(cut)
    write_lossless([picture], movie, fps=round(cut.fps), height=cut.height, width=cut.width)
    stills.write_bytes(strip(picture[None], 1, width=width))
    seen = _Seen(1)
    seen.at(0, picture)
    warnings = {warned.kind: warned.message for warned in seen.look.warnings()}
    if enlargement > 1:
        warnings[ClipWarning.UPSCALED] = upscaled(cut, enlargement)
    return bucket, Looked(
        frames=1,
        enlargement=enlargement,
        warnings=warnings,
        signature=signature_of(seen.small, 1),
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
