"""One clip as a unit of the stage trim: for each training clip cut of it its frames without loss, a strip of pictures, and
what is known of it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import av

from mochi_api import resolved
from mochi_api.clips import MAY_PASS, ClipReason
from mochi_api.sizes import Bucket
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.errors import AccessDeniedError, ClipError, MissingObjectError
from mochi_trainer.footage.looking import Looked, cut_and_look, still_and_look
from mochi_trainer.graph import Made, Unit, ahead, unit_key
from mochi_trainer.jobs.caption_files import suffix
from mochi_trainer.jobs.file_kinds import STILLS
from mochi_trainer.jobs.pieces import STRIP, VIDEO, info_of, label_of, pieces
from mochi_trainer.jobs.pieces import suffix as file_suffix
from mochi_trainer.jobs.placing import starts
from mochi_trainer.jobs.source_clips import SourceClip
from mochi_trainer.jobs.units import MAKER
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import ObjectInfo, Store
from mochi_trainer.video import Cut, Limits, Readers
from mochi_trainer.video.buckets import bucket_of_clip

log = logging.getLogger(__name__)

VERSION = 8
"""Raise it when the output for the same input changes."""

SHORTEST = 7
"""The fewest frames any run can use."""

LIMITS = Limits()
SOURCE = "source"
"""Folder of the clip itself beside what is cut of it."""

LONGEST_NAME = 255
"""Bytes of a file's name."""

THUMBNAILS = 3
THUMBNAILS_WIDTH = 480
"""Pixels of all of them side by side."""


def kept_frames(spec: PreprocessingSpec) -> int:
    """Frames kept of each clip: those of `durationSeconds` when it is set, else those of training."""
    if spec.duration_seconds is None:
        return spec.frames
    return max(spec.frames, int(float(spec.duration_seconds) * spec.fps + 1e-6))


def kept_bytes(spec: PreprocessingSpec, size: Bucket) -> int:
    """Those of the copy of a clip in `size`, without compression."""
    frames = size.frames if spec.buckets else kept_frames(spec)
    return frames * size.width * size.height * 3


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


def cut_of(spec: PreprocessingSpec, size: Bucket) -> Cut:
    """What is cut from a clip in `size`."""
    kept = size.frames if spec.buckets else kept_frames(spec)
    return Cut(
        frames=kept,
        least=kept if _exact(spec) else SHORTEST,
        fps=spec.fps,
        width=size.width,
        height=size.height,
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

    def __call__(self, groups: Iterable[Sequence[str]]) -> Iterator[Made]:
        return self.cut(chain.from_iterable(groups))

    def cut(self, keys: Iterable[str]) -> Iterator[Made]:
        """What is made of the clips, in the order of their keys."""
        return ahead(self._made, keys, at_once=self.at_once, waiting=1)

    def _made(self, key: str) -> Made:
        clip = self._clips[key]
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            made = self._cut(key, clip, folder)
        except ClipError as error:
            shutil.rmtree(folder, ignore_errors=True)
            return self._failed(key, clip, error)
        for piece in pieces(made.info, self._spec):
            log.info("%s: %d frames", label_of(clip.source.key, piece.segment), piece.frames)
        return made

    def _cut(self, key: str, clip: SourceClip, folder: Path) -> Made:
        local = folder / SOURCE / local_name(clip.source.key)
        local.parent.mkdir()
        try:
            self._source.get(clip.source.key, local)
            now = self._source.head(clip.source.key)
        except (AccessDeniedError, MissingObjectError) as error:
            raise ClipError(str(error), ClipReason.UNREADABLE) from error
        try:
            _require_listed(clip.source, now)
            return self._pieces(key, local, folder)
        finally:
            shutil.rmtree(local.parent)

    def _pieces(self, key: str, local: Path, folder: Path) -> Made:
        if suffix(local.name) in STILLS:
            return self._still(key, local, folder)
        size = self._size(local)
        cut, segments = cut_of(self._spec, size), resolved.segments(self._spec)
        numbered = segments.select != "First"
        begins = starts(local, cut, segments, self._readers, LIMITS)
        files: dict[str, Path] = {}
        looked: list[Looked] = []
        for number, start in enumerate(begins):
            movie, strip = (file_suffix(number if numbered else None, part) for part in (VIDEO, STRIP))
            files |= {movie: folder / f"trimmed{movie}", strip: folder / f"trimmed{strip}"}
            part = replace(cut, start_seconds=start)
            looked.append(
                self._readers.run(
                    cut_and_look,
                    local,
                    part,
                    LIMITS,
                    files[movie],
                    files[strip],
                    THUMBNAILS,
                    THUMBNAILS_WIDTH,
                )
            )
            PROCESS.moved()
        chosen = size if self._spec.buckets else None
        info = info_of(begins, looked, numbered=numbered, bucket=chosen)
        return Made(key=key, files=files, info={MAKER: self._maker, **info})

    def _size(self, local: Path) -> Bucket:
        """The one that loses least of the clip."""
        first, *others = sizes = resolved.buckets_of_clips(self._spec)
        if not others:
            return first
        spec = self._spec
        return self._readers.run(bucket_of_clip, local, spec.fps, float(spec.start_seconds), sizes, LIMITS)

    def _still(self, key: str, local: Path, folder: Path) -> Made:
        files = {part: folder / f"trimmed{part}" for part in (VIDEO, STRIP)}
        size, looked = self._readers.run(
            still_and_look,
            local,
            [cut_of(self._spec, size) for size in resolved.buckets_of_stills(self._spec)],
            LIMITS,
            files[VIDEO],
            files[STRIP],
            THUMBNAILS_WIDTH,
        )
        info = info_of([0.0], [looked], numbered=False, bucket=size)
        return Made(key=key, files=files, info={MAKER: self._maker, **info})

    def _failed(self, key: str, clip: SourceClip, error: ClipError) -> Made:
        log.warning("%s: %s", clip.source.key, error)
        failure = {"message": str(error), "reason": error.reason}
        info = {MAKER: self._maker, "failure": failure}
        return Made(key=key, files={}, info=info, keep=error.reason not in MAY_PASS)


def local_name(key: str) -> str:
    """The clip's own, since messages and the commands in them name the file; that of its kind where it is too long."""
    name = key.rpartition("/")[2]
    fits = len(os.fsencode(name)) <= LONGEST_NAME and "\0" not in name
    return name if fits else f"clip{suffix(key)}"


def _require_listed(listed: ObjectInfo, now: ObjectInfo | None) -> None:
    """Raise ClipError unless what was read is what was listed: a unit is kept for all runs under what the listing said.

    Some servers give an object another ETag in a listing; one with its size and its time is taken for it. Their answers
    about one object know whole seconds only.
    """
    if now is None:
        raise ClipError("it is gone since the folder was listed", ClipReason.UNREADABLE)
    whole = now.modified.is_integer()
    same_time = now.modified == (float(int(listed.modified)) if whole else listed.modified)
    if now.size != listed.size or (now.etag != listed.etag and not same_time):
        raise ClipError(
            f"it was replaced since the folder was listed: it had {listed.size} bytes and has {now.size}; the next run takes "
            "it as it is then",
            ClipReason.UNREADABLE,
        )


def _exact(spec: PreprocessingSpec) -> bool:
    """Whether a clip with fewer frames than are kept is of no use; a segment always has all of them."""
    return spec.duration_seconds is None or resolved.segments(spec).select != "First"


def _parameters(spec: PreprocessingSpec) -> dict[str, Any]:
    segments = resolved.segments(spec)
    return {
        **({} if segments.select == "First" else {"segments": list(segments)}),
        **({"buckets": [list(size) for size in resolved.buckets(spec)]} if spec.buckets else {}),
        "kept": kept_frames(spec),
        "exact": _exact(spec),
        "size": [spec.width, spec.height],
        "fps": spec.fps,
        "start": float(spec.start_seconds),
        "crop": [float(spec.crop_x), float(spec.crop_y)],
    }


def _decoder() -> dict[str, list[int]]:
    """Versions of the libraries that decode and scale: another one may give other pixels."""
    used = ("libavcodec", "libavformat", "libavutil", "libswscale", "libavfilter")
    return {name: list(version) for name, version in av.library_versions.items() if name in used}
