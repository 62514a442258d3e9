"""The stage trim: the first frames of each clip at the rate and size of training, and its caption.

Each clip is a unit of its own (`mochi_trainer.graph`); the stage's manifest is the list of them, with the captions.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mochi_api import layout, resolved
from mochi_api.outcomes import Item
from mochi_api.runfile import RunFile
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.cpus import available
from mochi_trainer.errors import DiskFullError
from mochi_trainer.graph import Unit, Units, complete
from mochi_trainer.jobs.cache_keys import cache_key, key_of_list
from mochi_trainer.jobs.cutting import VERSION, Cutter, failure_of, family, kept_bytes, unit_of
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.left_out import LeftOut
from mochi_trainer.jobs.near_duplicates import with_near_duplicates, words
from mochi_trainer.jobs.pieces import STRIP, VIDEO, Piece, name_of, pieces
from mochi_trainer.jobs.shards import shard_of
from mochi_trainer.jobs.source_captions import captioned, no_captions, read_caption
from mochi_trainer.jobs.source_clips import SourceClip, dataset_objects, no_clips, source_clips
from mochi_trainer.jobs.trimmed import (
    Trimmed,
    TrimmedClip,
    check_enough,
    details_of,
    sources,
    stage_result,
    trimmed_of,
)
from mochi_trainer.jobs.units import claims_for, new_ones, usable_by
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import Entry, Manifest, Store, find_manifest, open_store, write_manifest
from mochi_trainer.video import Readers

log = logging.getLogger(__name__)

SPARE_BYTES = 64 << 20
AHEAD = 2
"""Clips claimed for each that is cut at the moment."""


def execute(run: RunFile) -> Finished:
    """Trim the dataset of `run` into the cache, or find that it has been done; the first shard alone tells the result.

    Raises MissingObjectError (a caption, with missingCaption Fail), DatasetRejectedError, DiskFullError and what the
    stores raise.
    """
    shard = shard_of(run, "trim")
    source = open_store(run.locations.dataset, run.s3)
    cache = open_store(run.locations.cache, run.s3)
    left_out = LeftOut()
    objects = list(dataset_objects(source, run, left_out))
    stills = bool(resolved.buckets_of_stills(run.preprocessing))
    clips = source_clips(objects, stills=stills, most=run.dataset.max_clips, left_out=left_out)
    if not clips:
        raise no_clips(source, objects, left_out, stills=stills)
    key = _key(clips, run.preprocessing)
    prefix = layout.cache_entry("", "trim", key)
    reuse = run.preprocessing.cache_policy == "Reuse"
    manifest = find_manifest(cache, prefix, unaltered=True) if reuse else None
    made = 0
    if manifest is None:
        usable, skipped = captioned(source, clips, run.preprocessing)
        if not usable:
            raise no_captions(source, clips)
        manifest, key, made = _trim(run, source, cache, key, usable, skipped)
    if manifest is None or not shard.first:
        return shard.done(made, len(clips), "clips")
    finished = _finished(run, key, trimmed_of(manifest).for_training(run.preprocessing), made=made)
    return left_out.told_by(finished)


def _key(clips: Sequence[SourceClip], spec: PreprocessingSpec) -> str:
    """Of the list: which clips, cut how, with which captions."""
    return cache_key(
        "trim",
        VERSION,
        clips=[[clip.name, unit_of(clip, spec), clip.caption and clip.caption.identity] for clip in clips],
        missing_caption=spec.missing_caption,
    )


def _trim(
    run: RunFile,
    source: Store,
    cache: Store,
    key: str,
    clips: Sequence[SourceClip],
    skipped: Sequence[Item],
) -> tuple[Manifest | None, str, int]:
    """The stage's manifest, None from a shard other than the first, its key, and how many clips were cut for it here."""
    spec = run.preprocessing
    captions, failures = _captions(source, clips)
    keys = {unit_of(clip, spec): clip for clip in clips if clip.name in captions}
    with (
        tempfile.TemporaryDirectory(prefix="mochi-trim-", ignore_cleanup_errors=True) as name,
        Readers(available()) as readers,
    ):
        cutter = Cutter(source, keys, spec, Path(name), readers, maker=run.run.uid)
        _check_disk(Path(name), clips, spec, cutter.at_once)
        completed = complete(
            Units(cache, "trim", family(spec)),
            claims_for(run, cache, "trim", family(spec)),
            list(keys),
            cutter,
            at_once=AHEAD * cutter.at_once,
            usable=usable_by(run),
            progress=PROCESS.worked,
        )
        if not shard_of(run, "trim").first:
            return None, key, completed.made
        listing = _listing(clips, captions, completed.units, spec)
        used = with_near_duplicates(listing.clips, listing.signatures, readers)
    failures = [*failures, *listing.failures]
    key = key_of_list(key, failures, run.run.uid)
    prefix = layout.cache_entry("", "trim", key)
    details = details_of(used, failures, skipped)
    return write_manifest(cache, prefix, listing.entries, details), key, new_ones(run, "trim", completed)


@dataclass(slots=True)
class _Listing:
    """What the manifest lists."""

    entries: list[Entry] = field(default_factory=list)
    clips: list[TrimmedClip] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    """Of `clips`, in their order."""
    failures: list[Item] = field(default_factory=list)


def _listing(
    clips: Sequence[SourceClip],
    captions: Mapping[str, str],
    units: Mapping[str, Unit],
    spec: PreprocessingSpec,
) -> _Listing:
    found = _Listing()
    for clip in clips:
        if clip.name not in captions:
            continue
        unit = units[unit_of(clip, spec)]
        error = failure_of(unit)
        if error is not None:
            found.failures.append(error.item(clip.source.key))
            continue
        for piece in pieces(unit.info, spec):
            name = name_of(clip.name, piece.segment)
            found.entries += [
                replace(unit.files[piece.file(part)], name=f"{name}{part}") for part in (VIDEO, STRIP)
            ]
            found.clips.append(_clip(clip, piece, captions[clip.name]))
            found.signatures.append(piece.signature)
    return found


def _captions(source: Store, clips: Sequence[SourceClip]) -> tuple[dict[str, str], list[Item]]:
    """The captions of the clips that can be used, by the clips' names, and why others cannot."""
    captions: dict[str, str] = {}
    failures: list[Item] = []
    for clip in clips:
        if clip.problem:
            log.warning("%s: %s", clip.source.key, clip.problem)
            failures.append(Item.of(clip.source.key, clip.problem, clip.reason))
        else:
            captions[clip.name] = read_caption(source, clip)
    return captions, failures


def _clip(clip: SourceClip, piece: Piece, caption: str) -> TrimmedClip:
    return TrimmedClip(
        name=name_of(clip.name, piece.segment),
        source=clip.source.key,
        frames=piece.frames,
        width=piece.size.width,
        height=piece.size.height,
        caption=caption,
        enlargement=piece.enlargement,
        warnings=piece.warnings,
        start=piece.start,
        segment=piece.segment,
    )


def _check_disk(folder: Path, clips: Sequence[SourceClip], spec: PreprocessingSpec, at_once: int) -> None:
    """The largest sources that are cut at once, their trimmed copies without compression, and a little more must fit."""
    largest = sorted(clips, key=lambda clip: clip.source.size)[-at_once:]
    copy = resolved.segments(spec).most * max(kept_bytes(spec, size) for size in resolved.buckets(spec))
    need = sum(clip.source.size + copy for clip in largest) + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DiskFullError(
            f"trimming {largest[-1].source.key} and {len(largest) - 1} more clips at once needs {need >> 20} MiB of "
            f"local disk, {free >> 20} MiB are free"
        )


def _finished(run: RunFile, key: str, trimmed: Trimmed, *, made: int) -> Finished:
    done = sources(trimmed.clips)
    total = done + len(trimmed.failures)
    check_enough(total, done, trimmed.failures, run.preprocessing.max_failed_items_percent)
    left_out = f", {len(trimmed.skipped)} without caption left out" if trimmed.skipped else ""
    return Finished(
        result=stage_result(key, hit=not made, done=done, failures=trimmed.failures),
        message=f"{_told(done, total, made)}{_segments(trimmed)}{_sizes(run, trimmed)}{left_out}{words(trimmed.clips)}",
        failures=trimmed.failures,
        details={"skipped": [item.to_wire() for item in trimmed.skipped]},
    )


def _segments(trimmed: Trimmed) -> str:
    count = sum(clip.segment is not None for clip in trimmed.clips)
    return f", {count} segments" if count else ""


def _sizes(run: RunFile, trimmed: Trimmed) -> str:
    """How many training clips each size has, where there are several."""
    if not run.preprocessing.buckets:
        return ""
    counts = Counter(clip.size.label for clip in trimmed.clips)
    told = (f"{counts[size.label]} of {size.label}" for size in resolved.buckets(run.preprocessing))
    return f"; by size: {', '.join(told)}"


def _told(done: int, total: int, made: int) -> str:
    if not made:
        return f"reused {done} of {total} clips"
    reused = f", {total - made} of them from the cache" if made < total else ""
    return f"made {done} of {total} clips{reused}"
