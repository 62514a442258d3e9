"""One clip as a unit of the stage trim: its frames without loss, a strip of pictures, and what is known of it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av

from mochi_api.clips import MAY_PASS, ClipReason
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.errors import AccessDeniedError, ClipError, MissingObjectError
from mochi_trainer.footage.trimming import trim_clip
from mochi_trainer.graph import Made, Unit, ahead, unit_key
from mochi_trainer.jobs.source_clips import SourceClip
from mochi_trainer.jobs.units import MAKER
from mochi_trainer.storage import Store
from mochi_trainer.video import Cut, Limits, Readers

log = logging.getLogger(__name__)

VERSION = 4
"""Raise it when the output for the same input changes."""

SHORTEST = 7
"""The fewest frames any run can use."""

LIMITS = Limits()
VIDEO, STRIP = ".mp4", ".jpg"
THUMBNAILS = 3
THUMBNAILS_WIDTH = 480
"""Pixels of all of them side by side."""


def kept_frames(spec: PreprocessingSpec) -> int:
    """Frames kept of each clip: those of `durationSeconds` when it is set, else those of training."""
    if spec.duration_seconds is None:
        return spec.frames
    return max(spec.frames, int(float(spec.duration_seconds) * spec.fps + 1e-6))


def family(spec: PreprocessingSpec) -> str:
    """The family of all clips that are cut alike: parameters, this code, and the decoder."""
    return unit_key("trim", VERSION, decoder=_decoder(), **_parameters(spec))


def unit_of(clip: SourceClip, spec: PreprocessingSpec) -> str:
    """The key of a clip that is cut so; another content, name or size of the source makes another."""
    return unit_key("trim", VERSION, decoder=_decoder(), source=clip.source.identity, **_parameters(spec))


def failure_of(unit: Unit) -> ClipError | None:
    """Why the clip cannot be used; None when it can."""
    failure = unit.info.get("failure")
    return None if failure is None else ClipError(failure["message"], ClipReason(failure["reason"]))


def cut_of(spec: PreprocessingSpec) -> Cut:
    """What is cut from each clip."""
    kept = kept_frames(spec)
    return Cut(
        frames=kept,
        least=kept if spec.duration_seconds is None else SHORTEST,
        fps=spec.fps,
        width=spec.width,
        height=spec.height,
        start_seconds=float(spec.start_seconds),
        crop_x=float(spec.crop_x),
        crop_y=float(spec.crop_y),
    )


class Cutter:
    """Cuts clips of one dataset, several at once; the clips by the keys of their units."""

    def __init__(
        self,
        source: Store,
        clips: Mapping[str, SourceClip],
        spec: PreprocessingSpec,
        folder: Path,
        readers: Readers,
        *,
        maker: str,
    ) -> None:
        self._source, self._clips, self._spec = source, clips, spec
        self._folder, self._readers, self._maker = folder, readers, maker
        self.at_once = readers.count

    def __call__(self, keys: Sequence[str]) -> Iterator[Made]:
        return ahead(self._made, keys, at_once=self.at_once)

    def _made(self, key: str) -> Made:
        clip = self._clips[key]
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            made = self._cut(key, clip, folder)
        except ClipError as error:
            return self._failed(key, clip, error)
        log.info("%s: %d frames", clip.source.key, made.info["frames"])
        return made

    def _cut(self, key: str, clip: SourceClip, folder: Path) -> Made:
        cut = cut_of(self._spec)
        local = folder / f"source{Path(clip.source.key).suffix.lower()}"
        movie, stills = folder / "trimmed.mp4", folder / "trimmed.jpg"
        try:
            self._source.get(clip.source.key, local)
        except (AccessDeniedError, MissingObjectError) as error:
            raise ClipError(str(error), ClipReason.UNREADABLE) from error
        try:
            done = self._readers.run(
                trim_clip, local, cut, LIMITS, movie, stills, THUMBNAILS, THUMBNAILS_WIDTH
            )
        finally:
            local.unlink()
        info = {
            MAKER: self._maker,
            "frames": done.frames,
            "enlargement": round(done.enlargement, 3),
            "warnings": dict(done.warnings),
        }
        return Made(key=key, files={VIDEO: movie, STRIP: stills}, info=info)

    def _failed(self, key: str, clip: SourceClip, error: ClipError) -> Made:
        log.warning("%s: %s", clip.source.key, error)
        failure = {"message": str(error), "reason": error.reason}
        info = {MAKER: self._maker, "failure": failure}
        return Made(key=key, files={}, info=info, keep=error.reason not in MAY_PASS)


def _parameters(spec: PreprocessingSpec) -> dict[str, Any]:
    return {
        "kept": kept_frames(spec),
        "exact": spec.duration_seconds is None,
        "size": [spec.width, spec.height],
        "fps": spec.fps,
        "start": float(spec.start_seconds),
        "crop": [float(spec.crop_x), float(spec.crop_y)],
    }


def _decoder() -> dict[str, list[int]]:
    """Versions of the libraries that decode and scale: another one may give other pixels."""
    used = ("libavcodec", "libavformat", "libavutil", "libswscale", "libavfilter")
    return {name: list(version) for name, version in av.library_versions.items() if name in used}
