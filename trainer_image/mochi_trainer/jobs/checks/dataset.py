"""The dataset as the stage trim will find it: its listing, its clips, and what their captions say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mochi_api import resolved
from mochi_api.clips import ClipReason
from mochi_api.outcomes import Item
from mochi_api.runfile import RunFile
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.jobs.checks.findings import Findings
from mochi_trainer.jobs.checks.places import Places
from mochi_trainer.jobs.left_out import LeftOut
from mochi_trainer.jobs.source_captions import chosen, lacks, no_captions, with_captions
from mochi_trainer.jobs.source_clips import SourceClip, dataset_objects, no_clips, source_clips
from mochi_trainer.jobs.trimmed import check_enough
from mochi_trainer.storage import ObjectInfo, Store

FIRST_BYTES = 16
"""As many of the first clip are read, to see that reading is allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What lies below the dataset."""

    objects: Sequence[ObjectInfo]
    whole: bool
    """False when there was no time for the rest."""
    left_out: LeftOut
    """Videos and still images that are none of the user's clips."""

    def clips(self, run: RunFile) -> list[SourceClip]:
        """The clips, of a listing that was cut off without those whose caption may still come."""
        found = source_clips(
            self.objects,
            stills=_stills(run),
            most=run.dataset.max_clips,
            left_out=self.left_out,
        )
        if self.whole:
            return found
        last = self.objects[-1].key.encode()
        return [clip for clip in found if clip.caption or clip.caption_key.encode() < last]


def _stills(run: RunFile) -> bool:
    """Whether still images count."""
    return bool(resolved.buckets_of_stills(run.preprocessing))


def check_dataset(places: Places, findings: Findings) -> None:
    """List the dataset and read its captions."""
    run, address = places.run, places.run.locations.dataset
    listing: Listing | None = None
    if not places.reachable(address):
        return
    with places.asking(address, findings, "the dataset"):
        source = places.store(address)
        listing = listed(source, run, places.limits.listing_seconds)
    if listing is None:
        return
    clips = listing.clips(run)
    if not listing.whole:
        findings.warnings.append(
            f"only the first {len(listing.objects)} objects below {address} were listed in "
            f"{places.limits.listing_seconds:.0f} s, the others are unknown"
        )
    findings.warnings += listing.left_out.told()
    if clips or listing.whole:
        with places.asking(address, findings, "the clips"):
            _check_clips(places, source, listing, clips, findings)


def listed(source: Store, run: RunFile, seconds: float) -> Listing:
    """The dataset's objects, as many as come in `seconds`."""
    deadline = time.monotonic() + seconds
    objects: list[ObjectInfo] = []
    left_out = LeftOut()
    for info in dataset_objects(source, run, left_out):
        objects.append(info)
        if time.monotonic() > deadline:
            return Listing(objects=objects, whole=False, left_out=left_out)
    return Listing(objects=objects, whole=True, left_out=left_out)


def _check_clips(
    places: Places, source: Store, listing: Listing, clips: Sequence[SourceClip], findings: Findings
) -> None:
    spec = places.run.preprocessing
    if not clips:
        raise no_clips(source, listing.objects, listing.left_out, stills=_stills(places.run))
    read = with_captions(source, clips, places.limits.captions_seconds)
    usable: Sequence[SourceClip] = read
    with findings.problem("the captions"):
        usable, skipped = chosen(source, read, spec)
        if not usable:
            raise no_captions(source, clips)
        if skipped:
            findings.warnings.append(
                f"{'1 clip without caption is' if len(skipped) == 1 else f'{len(skipped)} clips without caption are'} "
                f"left out, such as {skipped[0].clip}"
            )
    _note_captions(usable, spec, findings)
    failures = _unusable(usable)
    done = len(usable) - len(failures)
    check_enough(len(usable), done, failures, spec.max_failed_items_percent)
    source.read_range(usable[0].source.key, 0, FIRST_BYTES)
    if failures:
        first = failures[0]
        findings.warnings.append(f"{len(failures)} clips cannot be used: {first.clip}: {first.message}")
    findings.clips = done
    findings.checked.append(f"{done} of {len(usable)} clips at {source.address()} with their captions")


def _note_captions(clips: Sequence[SourceClip], spec: PreprocessingSpec, findings: Findings) -> None:
    """Say which captions were not read in time, and which are blank where the spec takes those."""
    wanted = [clip for clip in clips if clip.caption and not clip.problem]
    if late := [clip for clip in wanted if clip.text is None]:
        findings.warnings.append(
            f"{len(late)} of {len(wanted)} captions were not read: no time was left for them"
        )
    blank = [clip for clip in wanted if lacks(clip) == ClipReason.EMPTY_CAPTION]
    if blank and spec.missing_caption == "Empty":
        findings.warnings.append(
            f"{len(blank)} captions have no words and count as the empty prompt, such as {blank[0].caption_key}"
        )


def _unusable(clips: Sequence[SourceClip]) -> list[Item]:
    """Clips of which their names, sizes and captions say that they cannot be used."""
    return [
        Item.of(clip.source.key, clip.problem, clip.reason)
        if clip.problem
        else Item.of(clip.source.key, "the file is empty (0 bytes)", ClipReason.CORRUPT)
        for clip in clips
        if clip.problem or clip.source.size == 0
    ]
