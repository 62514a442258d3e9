"""The output of the trim stage, as the later stages read it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mochi_api import layout
from mochi_api.clips import CLIP_TABLE, ClipReason
from mochi_api.outcomes import Item, StageResult
from mochi_api.runfile import RunFile
from mochi_api.sizes import Bucket
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.errors import DatasetRejectedError, InvalidInputError, MissingObjectError
from mochi_trainer.jobs.finished import FIRST_FAILURES
from mochi_trainer.jobs.pieces import VIDEOS, Segment, label_of
from mochi_trainer.storage import Entry, Manifest, Store, known, read_list


@dataclass(frozen=True, kw_only=True, slots=True)
class TrimmedClip:
    """One clip of the trim stage's output."""

    name: str
    source: str
    """Key in the dataset."""

    frames: int
    width: int
    height: int
    caption: str
    enlargement: float
    """Above 1: the source is smaller than the training size."""

    warnings: Mapping[str, str] = field(default_factory=dict)
    """`ClipWarning` and its sentence."""

    repeats: Sequence[str] | None = None
    """Names of the clips before it that show nearly the same; None from a version that did not note them."""

    start: float = 0.0
    """Seconds from the source's first picture at which it begins."""

    segment: Segment = None
    """Its number among the segments of its source."""

    @property
    def size(self) -> Bucket:
        """What is there of it."""
        return Bucket(self.frames, self.width, self.height)

    @property
    def label(self) -> str:
        """What a person is told of it: its source, and which segment where there are several."""
        return label_of(self.source, self.segment)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trimmed:
    """All of it."""

    manifest: Manifest
    clips: Sequence[TrimmedClip]
    failures: Sequence[Item]
    skipped: Sequence[Item]
    """Clips left out because they have no caption and the spec says so."""

    def copy_of(self, clip: TrimmedClip) -> Entry:
        """The entry of its copy; raise MissingObjectError when the list has none that this version knows."""
        for kind in VIDEOS:
            if (found := self.manifest.entries.get(f"{clip.name}{kind}")) is not None:
                return found
        raise MissingObjectError(
            f"the output of the stage trim ({self.manifest.prefix}) lists no copy of {clip.label} that this version can "
            f"read ({' or '.join(VIDEOS)}); apply the run anew, so that one version makes all of its stages"
        )

    def for_training(self, spec: PreprocessingSpec) -> Trimmed:
        """As this, with the clips that have too few frames for `spec` among the failures; of several sizes each has its own."""
        return self if spec.buckets else self.for_frames(spec.frames)

    def for_frames(self, frames: int) -> Trimmed:
        """As this, with the clips that have fewer than `frames` frames among the failures."""
        short = [clip for clip in self.clips if clip.frames < frames]
        fewer = [
            Item.of(clip.label, f"{frames} frames are needed, {clip.frames} are there", ClipReason.TOO_SHORT)
            for clip in short
        ]
        return Trimmed(
            manifest=self.manifest,
            clips=[clip for clip in self.clips if clip.frames >= frames],
            failures=[*self.failures, *fewer],
            skipped=self.skipped,
        )


def details_of(
    clips: Sequence[TrimmedClip], failures: Sequence[Item], skipped: Sequence[Item]
) -> dict[str, Any]:
    """The details for the manifest."""
    return {
        "clips": [asdict(clip) for clip in clips],
        "failures": [failure.to_wire() for failure in failures],
        "skipped": [item.to_wire() for item in skipped],
    }


def trimmed_of(manifest: Manifest) -> Trimmed:
    """The stage's output as its manifest lists it."""
    details: Mapping[str, Any] = manifest.details
    return Trimmed(
        manifest=manifest,
        clips=[known(TrimmedClip, clip) for clip in details["clips"]],
        failures=[Item.model_validate(failure) for failure in details["failures"]],
        skipped=[Item.model_validate(item) for item in details["skipped"]],
    )


def read_trimmed(cache: Store, run: RunFile) -> Trimmed:
    """All clips of the stage trim; raise MissingObjectError when it is not complete.

    A copy that is gone by now is no reason: `Copies` cuts it again.
    """
    if not run.keys.trim:
        raise InvalidInputError("keys.trim of the run file must name the output of the stage trim, got ''")
    try:
        manifest = read_list(cache, layout.cache_entry("", "trim", run.keys.trim))
    except MissingObjectError as error:
        raise MissingObjectError(f"output of the stage trim is not complete: {error}") from error
    return trimmed_of(manifest)


def sources(clips: Iterable[TrimmedClip]) -> int:
    """How many clips of the dataset these were cut of: `maxFailedItemsPercent` is of them."""
    return len({clip.source for clip in clips})


def check_enough(
    total: int, done: int, failures: Sequence[Item], most_percent: int, *, failed: int | None = None
) -> None:
    """Raise DatasetRejectedError when no clip is left, or more than `most_percent` of `total` have failed.

    All are clips of the dataset; `failed` is how many of them the failures are of, where several may be of one.
    """
    failed = len(failures) if failed is None else failed
    if done and failed * 100 <= most_percent * total:
        return
    reasons = "; ".join(f"{item.clip}: {item.message}" for item in failures[:3])
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    limit = "" if not done else f", more than maxFailedItemsPercent = {most_percent} allows"
    raise DatasetRejectedError(
        f"{failed} of {total} clips cannot be used{limit}: {reasons}{more}",
        total=total,
        failures=failures,
        action=_remedy(total, done, failures, failed),
    )


def _remedy(total: int, done: int, failures: Sequence[Item], failed: int) -> str:
    """What helps: clips of another length where that is what fails, and more tolerance only where clips are left."""
    known_reasons = {item.reason for item in failures} & {row.reason for row in CLIP_TABLE}
    cures = [row.cure for row in CLIP_TABLE if row.reason in known_reasons]
    least = math.ceil(100 * failed / total)
    tolerance = f", or raise preprocessing.maxFailedItemsPercent to at least {least}" if done else ""
    return f"{'; '.join(cures)}{tolerance}; apply again under a new name"


def stage_result(key: str, *, hit: bool, done: int, failures: Sequence[Item]) -> StageResult:
    """The counts of a stage."""
    return StageResult(
        cache_key=key,
        cache_hit=hit,
        items_total=done + len(failures),
        items_done=done,
        items_failed=len(failures),
        failures=list(failures[:FIRST_FAILURES]),
    )
