"""The clips of a run for the report, from what trim and captions left behind, whichever version wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mochi_api import layout
from mochi_api.clips import ClipReason, ClipWarning
from mochi_api.outcomes import Item
from mochi_api.reading import lenient
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.report.record import StageRecord
from mochi_trainer.storage import Manifest, Store, read_list

STRIPS = 200
"""As many clips have pictures in the page, those with warnings before the others; further ones are listed without."""

STRIPS_BYTES = 6 << 20
"""All of them together; in the page they take 4/3 of it."""

READERS = 8
"""Requests at once: each is small, and each stage writes the report anew."""

CAPTION_TOKENS = 256
"""`mochi_trainer.text.MAX_TOKENS`; that module would bring the libraries of the text encoder with it."""

NO_CAPTION = "NoCaption"
"""Beside the names of `ClipWarning`: a clip is used with the empty prompt because the spec says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRow:
    """One clip of the dataset. A number that nobody wrote down is None."""

    source: str
    """Key in the dataset."""
    segment: int | None = None
    """Its number where segments were cut of the source."""
    start: float | None = None
    """Seconds into the source at which the segment begins."""
    used: bool = True
    skipped: bool = False
    """Left out because the spec says so of clips without a caption: no failure."""
    reason: str = ""
    """A `ClipReason` of a clip that is not used; empty when an earlier version wrote it."""
    message: str = ""
    """Why it is not used."""
    caption: str = ""
    frames: int | None = None
    size: str = ""
    """Width and height that it was brought to; empty when nobody wrote them down."""
    enlargement: float | None = None
    tokens: int | None = None
    """Of the whole caption, before it is cut."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Names of `ClipWarning`, or of a version that knows more, with a text each."""
    picture: bytes | None = None
    """JPEG."""

    @property
    def label(self) -> str:
        """The source, and which segment: as `mochi_trainer.jobs.pieces.label_of`, by which failures name it."""
        return self.source if self.segment is None else f"{self.source}#{self.segment:02d}"


def gather_clips(cache: Store, records: Sequence[StageRecord]) -> list[ClipRow]:
    """All clips that are known of, in the order of the dataset, failures without an output last.

    Raises what the store raises.
    """
    trim, captions = _manifest(cache, records, "trim"), _manifest(cache, records, "captions")
    described = [line for line in mappings(_details(trim).get("clips")) if "source" in line]
    tokens, said = _tokens(records, captions), _warnings(records)
    failed = {item.clip: item for record in records for item in record.failures}
    listed = [(_row(line, tokens, said), str(line.get("name", ""))) for line in described]
    rows = {row.label: row for row, _ in listed}
    for clip, item in failed.items():
        rows[clip] = _failed(rows.get(clip, ClipRow(source=clip)), item)
    for item in _skipped(records):
        rows.setdefault(item.clip, _left_out(item))
    names = {row.label: name for row, name in listed}
    return _pictured(cache, trim, list(rows.values()), names) if trim else list(rows.values())


def _row(
    line: Mapping[str, Any], tokens: Mapping[str, int], said: Mapping[str, Mapping[str, str]]
) -> ClipRow:
    """`line` is what trim wrote about the clip; warnings of a record stand under its source or its name."""
    source, name = str(line["source"]), str(line.get("name", ""))
    segment = _whole(line.get("segment"))
    row = ClipRow(
        source=source,
        segment=segment,
        start=None if segment is None else number(line.get("start")),
        caption=str(line.get("caption") or ""),
        frames=_whole(line.get("frames")),
        size=_size(line),
        enlargement=number(line.get("enlargement")),
        tokens=tokens.get(source, tokens.get(name)),
    )
    written = {**_texts(line.get("warnings")), **said.get(name, {}), **said.get(source, {})}
    return replace(row, warnings={**_own_warnings(row), **written})


def _size(line: Mapping[str, Any]) -> str:
    width, height = _whole(line.get("width")), _whole(line.get("height"))
    return "" if width is None or height is None else f"{width}×{height}"


def _own_warnings(row: ClipRow) -> dict[str, str]:
    """Those that the numbers tell, which earlier versions did not write."""
    found: dict[str, str] = {}
    if row.enlargement is not None and row.enlargement > 1:
        found[ClipWarning.UPSCALED] = f"enlarged {row.enlargement:.2f}×: the source is smaller"
    if row.tokens is not None and row.tokens > CAPTION_TOKENS:
        found[ClipWarning.CAPTION_TRUNCATED] = (
            f"caption of {row.tokens} tokens: what follows {CAPTION_TOKENS} is cut off"
        )
    if not row.caption:
        found[NO_CAPTION] = "no caption: the empty prompt"
    return found


def _failed(row: ClipRow, item: Item) -> ClipRow:
    return replace(row, used=False, reason=item.reason, message=item.message)


def _left_out(item: Item) -> ClipRow:
    """An earlier version wrote only the clip's key."""
    message = item.message or "it has no caption, and preprocessing.missingCaption is Skip"
    reason = item.reason or ClipReason.MISSING_CAPTION
    return ClipRow(source=item.clip, used=False, skipped=True, reason=reason, message=f"left out: {message}")


def _tokens(records: Sequence[StageRecord], captions: Manifest | None) -> dict[str, int]:
    """By the name of a clip, and by its source where the caption is cut: of such a one the whole count."""
    found = {str(clip): count for clip, count in _mapping(_details(captions).get("tokens")).items()}
    for record in records:
        found |= {str(clip): count for clip, count in _mapping(record.details.get("truncated")).items()}
    return {clip: count for clip, raw in found.items() if (count := _whole(raw)) is not None}


def _warnings(records: Sequence[StageRecord]) -> dict[str, dict[str, str]]:
    """From lines {"clip": ..., "warnings": {name: text}} in the details of any stage."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        for line in mappings(record.details.get("warnings")):
            found.setdefault(str(line.get("clip", "")), {}).update(_texts(line.get("warnings")))
    return found


def _skipped(records: Sequence[StageRecord]) -> Iterator[Item]:
    for record in records:
        lines = record.details.get("skipped")
        for line in lines if isinstance(lines, list) else ():
            item = lenient(Item, {"clip": line, "message": ""} if isinstance(line, str) else line)
            if item is not None:
                yield item


def _pictured(
    cache: Store, trim: Manifest, rows: Sequence[ClipRow], names: Mapping[str, str]
) -> list[ClipRow]:
    """The rows, as many of them with pictures as the page has room for."""
    having = [row for row in rows if names.get(row.label)]
    chosen = sorted(having, key=lambda row: not row.warnings)[:STRIPS]
    keys = [trim.key(f"{names[row.label]}.jpg") for row in chosen]
    with ThreadPoolExecutor(READERS) as readers:
        read = list(readers.map(partial(optional, cache), keys))
    pictures: dict[str, bytes] = {}
    room = STRIPS_BYTES
    for row, picture in zip(chosen, read, strict=True):
        if picture is not None and len(picture) <= room:
            pictures[row.label] = picture
            room -= len(picture)
    return [replace(row, picture=pictures.get(row.label)) for row in rows]


def optional(store: Store, key: str) -> bytes | None:
    """An object's content; None when it is not there, or `key` is none that a store can have."""
    try:
        return store.read_bytes(key)
    except (MissingObjectError, InvalidInputError):
        return None


def _manifest(cache: Store, records: Sequence[StageRecord], stage: str) -> Manifest | None:
    for record in records:
        result = record.outcome.stage_result
        if record.stage == stage and result is not None and result.cache_key:
            try:
                return read_list(cache, layout.cache_entry("", stage, result.cache_key))
            except MissingObjectError:
                return None
    return None


def _details(manifest: Manifest | None) -> Mapping[str, Any]:
    return manifest.details if manifest else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The entries of a list that have names; none of anything else."""
    return [line for line in value if isinstance(line, Mapping)] if isinstance(value, list) else []


def _texts(value: object) -> dict[str, str]:
    return {str(name): str(text) for name, text in _mapping(value).items()}


def number(value: object) -> float | None:
    """A finite number of JSON below 1e9; None of anything else."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if good else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)
