"""What the report is made from, gathered from storage: records, the metrics, and pictures in a size fit for a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mochi_api import layout
from mochi_api.outcomes import Reason
from mochi_api.runfile import RunFile, Stage
from mochi_trainer.report.clips import ClipRow, gather_clips, mappings, number, optional
from mochi_trainer.report.record import StageRecord, read_records
from mochi_trainer.storage import Store
from mochi_trainer.video import smaller

COMPARISONS = 8
"""As many have pictures, the least alike ones."""

PICTURE_WIDTH = 1100
PREVIEWS_SHOWN = 12
"""Steps whose samples during the training have pictures."""
VIDEO_BYTES = 8 << 20
"""A longer sample video is named, not embedded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A clip beside what the decoder makes of its latents."""

    source: str
    psnr: float
    """Decibel."""
    ssim: float | None
    """Up to 1; None when an earlier version made the comparison."""
    key: str = ""
    """Of its picture in the cache."""
    picture: bytes | None = None
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
class Preview:
    """Samples of one checkpoint, made during the training; of some the pictures, and of none the videos."""

    step: int
    samples: Sequence[SampleVideo]


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
    comparisons: Sequence[Comparison] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[SampleVideo] = ()
    previews: Sequence[Preview] = ()
    """In the order of their steps."""

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
    return Contents(
        run=run,
        address=store.address(),
        cache=cache.address(),
        records=records,
        clips=gather_clips(cache, records),
        comparisons=_comparisons(cache, records),
        metrics=_metrics(store),
        samples=_samples(store, records),
        previews=_previews(store),
    )


def _comparisons(cache: Store, records: Sequence[StageRecord]) -> list[Comparison]:
    """The least alike first; lines without a score, which no version writes, are left out."""
    lines = [line for record in records for line in mappings(record.details.get("reconstructions"))]
    scored = [(line, psnr) for line in lines if (psnr := number(line.get("psnr"))) is not None]
    found = [
        Comparison(
            source=str(line.get("source", "")),
            psnr=psnr,
            ssim=number(line.get("ssim")),
            key=str(line.get("picture", "")),
        )
        for line, psnr in scored
    ]
    found.sort(key=lambda item: (1 if item.ssim is None else item.ssim, item.psnr))
    pictured = [replace(item, picture=_picture(cache, item.key)) for item in found[:COMPARISONS]]
    return [*pictured, *found[COMPARISONS:]]


def _metrics(store: Store) -> list[Mapping[str, Any]]:
    """One line a step, the last one written where a resumed run wrote it again; lines that are cut off are left out."""
    data = optional(store, layout.METRICS)
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
        for described in mappings(record.details.get("samples"))
    ]


def _previews(store: Store) -> list[Preview]:
    """Those that are complete. Pictures of `PREVIEWS_SHOWN` of them, spread over the training, the last one included."""
    keys = [info.key for info in store.list("samples/step-") if info.key.endswith(f"/{layout.SAMPLES}")]
    found = [
        described
        for key in keys
        if (described := _mapping(optional(store, key))) and isinstance(described.get("step"), int)
    ]
    found.sort(key=lambda described: int(described["step"]))
    last = len(found) - 1
    most = PREVIEWS_SHOWN - 1
    shown = (
        {round(last * place / most) for place in range(PREVIEWS_SHOWN)} if last > most else range(last + 1)
    )
    return [
        Preview(
            step=described["step"],
            samples=[
                _sample(store, sample, video=False, sheet=place in shown)
                for sample in mappings(described.get("samples"))
            ],
        )
        for place, described in enumerate(found)
    ]


def _mapping(data: bytes | None) -> Mapping[str, Any]:
    """A document of JSON; empty when it is none."""
    try:
        found = json.loads(data or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _sample(
    store: Store, described: Mapping[str, Any], *, video: bool = True, sheet: bool = True
) -> SampleVideo:
    """`described` has prompt, video and sheet (addresses below the run's folder) and perhaps a seed.

    Without `video`, or `sheet`, only their addresses are taken.
    """
    root = store.address().rstrip("/") + "/"
    film, picture = (str(described.get(name) or "").removeprefix(root) for name in ("video", "sheet"))
    info = store.head(film) if film and video else None
    small = info is not None and info.size <= VIDEO_BYTES
    return SampleVideo(
        prompt=str(described.get("prompt", "")),
        address=root + film,
        seed=str(described.get("seed", "")),
        video=optional(store, film) if small else None,
        sheet=_picture(store, picture) if picture and sheet else None,
    )


def _picture(store: Store, key: str) -> bytes | None:
    data = optional(store, key)
    try:
        return None if data is None else smaller(data, width=PICTURE_WIDTH)
    except ValueError:
        return None
