"""The dataset section: every clip, why some are not used, what is worth a look at others, and how the numbers spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from mochi_api.clips import CLIP_TABLE, WARNING_MEANINGS
from mochi_trainer.report.clips import NO_CAPTION, ClipRow
from mochi_trainer.report.contents import Contents
from mochi_trainer.report.plots import histogram
from mochi_trainer.report.record import StageRecord
from mochi_trainer.report.rendering import plain

OTHER = "Other"
"""Stands for the reason of a failure that an earlier version wrote."""

CURES = {str(row.reason): (row.meaning, row.cure) for row in CLIP_TABLE}
MEANINGS = {str(warning): meaning for warning, meaning in WARNING_MEANINGS.items()} | {
    NO_CAPTION: "no caption lies beside it: it is trained on with the empty prompt"
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """A reason or a warning, and how many clips have it."""

    name: str
    count: int
    meaning: str = ""
    cure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How a number spreads over the clips that are used."""

    title: str
    sentence: str
    picture: Markup
    """Empty when all clips have one value."""


def dataset(contents: Contents) -> dict[str, Any]:
    """What the template shows: clips that are not used first, in the order of the dataset otherwise."""
    rows = contents.clips
    used = [row for row in rows if row.used]
    fps = contents.run.preprocessing.fps
    return {
        "rows": [*(row for row in rows if not row.used), *used],
        "used": len({row.source for row in used}),
        "total": len({row.source for row in rows if not row.skipped}),
        "segments": sum(row.segment is not None for row in used),
        "skipped": sum(row.skipped for row in rows),
        "pictures": sum(row.picture is not None for row in rows),
        "listed": len(used),
        "reasons": reasons(rows),
        "warnings": warnings(rows),
        "spreads": spreads(used, fps),
        "sizes": sizes(used) if contents.run.preprocessing.buckets else {},
        "left_out": counts_of(contents.records, "leftOut"),
        "unread": counts_of(contents.records, "unlisted"),
        "fps": fps,
        "other": OTHER,
    }


def reasons(rows: Sequence[ClipRow]) -> list[Tag]:
    """Why clips are not used, the most frequent first."""
    counts = Counter(row.reason or OTHER for row in rows if not row.used)
    return [
        Tag(name=name, count=count, meaning=CURES.get(name, ("", ""))[0], cure=CURES.get(name, ("", ""))[1])
        for name, count in counts.most_common()
    ]


def warnings(rows: Sequence[ClipRow]) -> list[Tag]:
    """What is worth a look, the most frequent first."""
    counts = Counter(name for row in rows if row.used for name in row.warnings)
    return [Tag(name=name, count=n, meaning=MEANINGS.get(name, "")) for name, n in counts.most_common()]


def sizes(rows: Sequence[ClipRow]) -> dict[str, int]:
    """How many clips have each size, in frames and pixels, the most frequent first."""
    counts = Counter(f"{row.frames} × {row.size}" for row in rows if row.frames and row.size)
    return dict(counts.most_common())


def counts_of(records: Sequence[StageRecord], detail: str) -> dict[str, int]:
    """How many of each kind a stage has told as `detail`: of videos and still images that are no clips, of what cannot be read."""
    for record in records:
        told = record.details.get(detail)
        if isinstance(told, Mapping):
            return {str(what): count for what, count in told.items() if isinstance(count, int)}
    return {}


def spreads(rows: Sequence[ClipRow], fps: int) -> list[Spread]:
    """Of length, size of the source and caption, as far as they are known."""
    numbers: tuple[tuple[str, str, bool, Callable[[ClipRow], float | None]], ...] = (
        ("Length", "seconds", False, lambda row: row.frames and row.frames / fps),
        ("Enlargement of the source", "times", False, lambda row: row.enlargement),
        ("Length of the caption", "tokens", True, lambda row: row.tokens),
    )
    found = [
        (title, unit, whole, [value for row in rows if (value := number(row)) is not None])
        for title, unit, whole, number in numbers
    ]
    return [_spread(title, unit, values, whole=whole) for title, unit, whole, values in found if values]


def rounded(value: float) -> str:
    """With two digits after the point, where they are not zero."""
    return plain(round(value, 2))


def _spread(title: str, unit: str, values: Sequence[float], *, whole: bool) -> Spread:
    low, high = min(values), max(values)
    if low == high:
        return Spread(title=title, sentence=f"All clips: {rounded(low)} {unit}.", picture=Markup(""))
    middle = rounded(median(values))
    sentence = f"From {rounded(low)} to {rounded(high)} {unit}, half of the clips up to {middle}."
    return Spread(title=title, sentence=sentence, picture=histogram(title, values, unit=unit, whole=whole))
