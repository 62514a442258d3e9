"""The stage trim: the first frames of each clip at the rate and size of training, with its caption beside it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mochi_api import layout
from mochi_api.clips import ClipReason
from mochi_api.outcomes import Item
from mochi_api.runfile import RunFile
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.errors import ClipError, DiskFullError
from mochi_trainer.jobs.cache_keys import cache_key
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.source_captions import captioned, no_captions, read_caption
from mochi_trainer.jobs.source_clips import SourceClip, dataset_objects, no_clips, source_clips
from mochi_trainer.jobs.trimmed import (
    Trimmed,
    TrimmedClip,
    check_enough,
    details_of,
    stage_result,
    trimmed_of,
)
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import (
    Entry,
    Manifest,
    Store,
    find_manifest,
    open_store,
    put_bytes_entry,
    put_entry,
    write_manifest,
)
from mochi_trainer.video import Cut, encode_lossless, read_clip, strip

log = logging.getLogger(__name__)

VERSION = 3
"""Raise it when the output for the same input changes."""

SHORTEST = 7
"""The fewest frames any run can use."""

THUMBNAILS = 3
THUMBNAILS_WIDTH = 480
"""Pixels of all of them side by side."""

SPARE_BYTES = 64 << 20


def execute(run: RunFile) -> Finished:
    """Trim the dataset of `run` into the cache, or find that it has been done.

    Raises MissingObjectError (a caption, with missingCaption Fail), DatasetRejectedError, DiskFullError and what the
    stores raise.
    """
    source = open_store(run.locations.dataset, run.s3)
    cache = open_store(run.locations.cache, run.s3)
    objects = list(dataset_objects(source, run))
    clips = source_clips(objects, most=run.dataset.max_clips)
    if not clips:
        raise no_clips(source, objects)
    usable, skipped = captioned(source, clips, run.preprocessing)
    if not usable:
        raise no_captions(source, clips)
    key = _key(clips, run)
    prefix = layout.cache_entry("", "trim", key)
    manifest = find_manifest(cache, prefix) if run.preprocessing.cache_policy == "Reuse" else None
    hit = manifest is not None
    if manifest is None:
        manifest = _trim(source, cache, prefix, usable, skipped, run.preprocessing)
    return _finished(run, key, trimmed_of(manifest).for_frames(run.preprocessing.frames), hit=hit)


def kept_frames(spec: PreprocessingSpec) -> int:
    """Frames kept of each clip: those of `durationSeconds` when it is set, else those of training."""
    if spec.duration_seconds is None:
        return spec.frames
    return max(spec.frames, int(float(spec.duration_seconds) * spec.fps + 1e-6))


def _key(clips: Sequence[SourceClip], run: RunFile) -> str:
    spec = run.preprocessing
    return cache_key(
        "trim",
        VERSION,
        clips=[[clip.source, clip.caption] for clip in clips],
        kept=kept_frames(spec),
        exact=spec.duration_seconds is None,
        size=[spec.width, spec.height],
        fps=spec.fps,
        missing_caption=spec.missing_caption,
    )


def _trim(
    source: Store,
    cache: Store,
    prefix: str,
    clips: Sequence[SourceClip],
    skipped: Sequence[str],
    spec: PreprocessingSpec,
) -> Manifest:
    entries: list[Entry] = []
    done: list[TrimmedClip] = []
    failures: list[Item] = []
    with tempfile.TemporaryDirectory(prefix="mochi-trim-") as name:
        folder = Path(name)
        _check_disk(folder, clips, spec)
        for number, clip in enumerate(clips, 1):
            PROCESS.worked(number - 1, len(clips))
            try:
                trimmed = _trim_clip(source, clip, spec, folder)
            except ClipError as error:
                log.warning("clip %d of %d, %s: %s", number, len(clips), clip.source.key, error)
                failures.append(error.item(clip.source.key))
                continue
            entries.append(put_entry(cache, prefix, folder / "trimmed.mp4", f"{clip.name}.mp4"))
            entries.append(put_entry(cache, prefix, folder / "trimmed.jpg", f"{clip.name}.jpg"))
            entries.append(put_bytes_entry(cache, prefix, trimmed.caption.encode(), f"{clip.name}.txt"))
            done.append(trimmed)
            log.info("clip %d of %d, %s: %d frames", number, len(clips), clip.source.key, trimmed.frames)
    PROCESS.worked(len(clips), len(clips))
    return write_manifest(cache, prefix, entries, details_of(done, failures, skipped))


def _trim_clip(source: Store, clip: SourceClip, spec: PreprocessingSpec, folder: Path) -> TrimmedClip:
    """Make `folder/trimmed.mp4` and a strip of pictures for the report; raise ClipError when the clip cannot be used."""
    if clip.problem:
        raise ClipError(clip.problem, ClipReason.UNSUPPORTED)
    caption = read_caption(source, clip)
    local = folder / f"source{Path(clip.source.key).suffix.lower()}"
    source.get(clip.source.key, local)
    kept = kept_frames(spec)
    least = kept if spec.duration_seconds is None else SHORTEST
    cut = Cut(frames=kept, least=least, fps=spec.fps, width=spec.width, height=spec.height)
    read = read_clip(local, cut)
    frames, enlargement = read.frames, read.enlargement
    encode_lossless(frames, folder / "trimmed.mp4", fps=spec.fps)
    (folder / "trimmed.jpg").write_bytes(strip(frames, THUMBNAILS, width=THUMBNAILS_WIDTH))
    if enlargement > 1:
        log.warning(
            "%s is smaller than %dx%d: enlarged %.2f times",
            clip.source.key,
            spec.width,
            spec.height,
            enlargement,
        )
    return TrimmedClip(
        name=clip.name,
        source=clip.source.key,
        frames=len(frames),
        width=spec.width,
        height=spec.height,
        caption=caption,
        enlargement=round(enlargement, 3),
    )


def _check_disk(folder: Path, clips: Sequence[SourceClip], spec: PreprocessingSpec) -> None:
    """The largest source, its trimmed copy without compression, and a little more must fit."""
    largest = max(clips, key=lambda clip: clip.source.size).source
    need = largest.size + kept_frames(spec) * spec.width * spec.height * 3 + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DiskFullError(
            f"trimming {largest.key} needs {need >> 20} MiB of local disk, {free >> 20} MiB are free"
        )


def _finished(run: RunFile, key: str, trimmed: Trimmed, *, hit: bool) -> Finished:
    total, done = len(trimmed.clips) + len(trimmed.failures), len(trimmed.clips)
    check_enough(total, done, trimmed.failures, run.preprocessing.max_failed_items_percent)
    made = "reused" if hit else "made"
    left_out = f", {len(trimmed.skipped)} without caption left out" if trimmed.skipped else ""
    return Finished(
        result=stage_result(key, hit=hit, done=done, failures=trimmed.failures),
        message=f"{made} {done} of {total} clips{left_out}",
        failures=trimmed.failures,
        details={"skipped": list(trimmed.skipped)},
    )
