"""What the report is made from, gathered from storage: records, the metrics, and pictures in a size fit for a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mochi_api import layout
from mochi_api.outcomes import Item, Reason
from mochi_api.runfile import RunFile, Stage
from mochi_trainer.errors import MissingObjectError
from mochi_trainer.report.record import StageRecord, read_records
from mochi_trainer.storage import Manifest, Store, find_manifest
from mochi_trainer.video import smaller

THUMBNAILS = 100
"""Clips with pictures; further ones are listed without."""

COMPARISONS = 8
PICTURE_WIDTH = 1100
VIDEO_BYTES = 8 << 20
"""A longer sample video is named, not embedded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRow:
    """One clip of the dataset."""

    source: str
    caption: str
    frames: int
    remarks: Sequence[str]
    picture: bytes | None
    """JPEG."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A clip beside what the decoder makes of its latents."""

    source: str
    psnr: float
    """Decibel."""
    picture: bytes | None
    """JPEG."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleVideo:
    """One sample."""

    prompt: str
    address: str
    seed: str
    video: bytes | None
    """MP4; None when it is too large for the page."""
    sheet: bytes | None
    """JPEG."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All of it."""

    run: RunFile
    address: str
    """Of the run's folder."""
    cache: str
    """Address of the cache."""
    records: Sequence[StageRecord]
    clips: Sequence[ClipRow] = ()
    failures: Sequence[Item] = ()
    comparisons: Sequence[Comparison] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[SampleVideo] = ()

    def record(self, stage: Stage) -> StageRecord | None:
        """How a stage ended; None when it has not."""
        return next((record for record in self.records if record.stage == stage), None)

    @property
    def failed(self) -> StageRecord | None:
        """The stage that ended the run; None when there is none."""
        return next((r for r in self.records if r.outcome.reason is not Reason.COMPLETED), None)


def gather(store: Store, run: RunFile, cache: Store) -> Contents:
    """Read everything there is; what is absent stays empty. Raises what the stores raise."""
    records = read_records(store)
    trim = _manifest(cache, records, "trim")
    return Contents(
        run=run,
        address=store.address(),
        cache=cache.address(),
        records=records,
        clips=_clips(cache, trim, records) if trim else (),
        failures=_failures(records),
        comparisons=_comparisons(cache, records),
        metrics=_metrics(store),
        samples=_samples(store, records),
    )


def _manifest(cache: Store, records: Sequence[StageRecord], stage: str) -> Manifest | None:
    for record in records:
        result = record.outcome.stage_result
        if record.stage == stage and result is not None and result.cache_key:
            return find_manifest(cache, layout.cache_entry("", stage, result.cache_key))
    return None


def _clips(cache: Store, manifest: Manifest, records: Sequence[StageRecord]) -> list[ClipRow]:
    cut = {
        source: tokens for record in records for source, tokens in record.details.get("truncated", {}).items()
    }
    failed = {failure.clip for failure in _failures(records)}
    rows: list[ClipRow] = []
    for clip in manifest.details["clips"]:
        if clip["source"] in failed:
            continue
        remarks = (
            [f"enlarged {clip['enlargement']:.2f}×: the source is smaller"] if clip["enlargement"] > 1 else []
        )
        if tokens := cut.get(clip["source"]):
            remarks.append(f"caption of {tokens} tokens: what follows 256 is cut off")
        remarks += [] if clip["caption"] else ["no caption: the empty prompt"]
        key = manifest.key(f"{clip['name']}.jpg")
        picture = _optional(cache, key) if len(rows) < THUMBNAILS else None
        rows.append(
            ClipRow(
                source=clip["source"],
                caption=clip["caption"],
                frames=clip["frames"],
                remarks=remarks,
                picture=picture,
            )
        )
    return rows


def _failures(records: Sequence[StageRecord]) -> list[Item]:
    return [failure for record in records for failure in record.failures]


def _comparisons(cache: Store, records: Sequence[StageRecord]) -> list[Comparison]:
    lines = [line for record in records for line in record.details.get("reconstructions", ())]
    return [
        Comparison(
            source=line["source"],
            psnr=line["psnr"],
            picture=_picture(cache, line["picture"]) if number < COMPARISONS else None,
        )
        for number, line in enumerate(lines)
    ]


def _metrics(store: Store) -> list[Mapping[str, Any]]:
    """One line a step, the last one written where a resumed run wrote it again; lines that are cut off are left out."""
    data = _optional(store, layout.METRICS)
    lines: dict[int, Mapping[str, Any]] = {}
    for text in (data or b"").decode("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines[line["step"]] = line
    return [lines[step] for step in sorted(lines)]


def _samples(store: Store, records: Sequence[StageRecord]) -> list[SampleVideo]:
    return [
        _sample(store, described)
        for record in records
        if record.stage == "sample"
        for described in record.details.get("samples", ())
    ]


def _sample(store: Store, described: Mapping[str, Any]) -> SampleVideo:
    """`described` has prompt, video and sheet (addresses below the run's folder) and perhaps a seed."""
    root = store.address().rstrip("/") + "/"
    video, sheet = (str(described.get(name) or "").removeprefix(root) for name in ("video", "sheet"))
    info = store.head(video) if video else None
    small = info is not None and info.size <= VIDEO_BYTES
    return SampleVideo(
        prompt=str(described.get("prompt", "")),
        address=root + video,
        seed=str(described.get("seed", "")),
        video=_optional(store, video) if small else None,
        sheet=_picture(store, sheet) if sheet else None,
    )


def _picture(store: Store, key: str) -> bytes | None:
    data = _optional(store, key)
    try:
        return None if data is None else smaller(data, width=PICTURE_WIDTH)
    except ValueError:
        return None


def _optional(store: Store, key: str) -> bytes | None:
    try:
        return store.read_bytes(key)
    except MissingObjectError:
        return None
