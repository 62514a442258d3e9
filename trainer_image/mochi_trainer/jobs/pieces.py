"""The training clips that were cut of one source clip, as its unit holds them: one without a number, or numbered segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mochi_api.resolved import buckets
from mochi_api.sizes import Bucket
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.footage.looking import Looked
from mochi_trainer.footage.signatures import as_text

VIDEO, STRIP = ".mov", ".jpg"
VIDEOS = (VIDEO, ".mp4")
"""Of copies: the second is H.264 without loss, as versions of the stage before the sixth wrote it, which is read too."""

Segment = int | None
"""Number of a segment, from 0 on; None where a clip gives one training clip, by `segments.select: First`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One training clip."""

    segment: Segment
    start: float
    """Seconds from the first picture of the source."""

    frames: int
    enlargement: float
    warnings: Mapping[str, str]
    signature: str
    """What it is recognised by, as text."""

    size: Bucket
    """The one that it was cut to; it may have more frames."""

    def file(self, part: str) -> str:
        """Under which suffix its `VIDEO` or `STRIP` lies in the unit."""
        return suffix(self.segment, part)


def suffix(segment: Segment, part: str) -> str:
    """The suffix of a unit's file: `.mov`, or `.00.mov` of a segment."""
    return part if segment is None else f".{segment:02d}{part}"


def name_of(clip: str, segment: Segment) -> str:
    """The name of a training clip: that of its source, with `__00` and so on where there are segments.

    No source has a name with two underscores, so no segment has the name of another clip.
    """
    return clip if segment is None else f"{clip}__{segment:02d}"


def label_of(source: str, segment: Segment) -> str:
    """What a person is told: the key of the source, with `#00` and so on where there are segments."""
    return source if segment is None else f"{source}#{segment:02d}"


def info_of(
    starts: Sequence[float], looked: Sequence[Looked], *, numbered: bool, bucket: Bucket | None = None
) -> dict[str, Any]:
    """What a unit says of its pieces; `bucket` is the one that was chosen where there were several."""
    chosen = {} if bucket is None else {"bucket": list(bucket)}
    lines = [
        {
            "frames": one.frames,
            "enlargement": round(one.enlargement, 3),
            "warnings": dict(one.warnings),
            "signature": as_text(one.signature),
        }
        for one in looked
    ]
    if not numbered:
        return lines[0] | chosen
    return chosen | {
        "segments": [{"start": start, **line} for start, line in zip(starts, lines, strict=True)]
    }


def pieces(info: Mapping[str, Any], spec: PreprocessingSpec) -> list[Piece]:
    """The pieces of a unit that is no failure, by its info."""
    lines, chosen = info.get("segments"), info.get("bucket")
    size = buckets(spec)[0] if chosen is None else Bucket(*chosen)
    if lines is None:
        start = float(spec.start_seconds) if size.frames > 1 else 0.0
        return [_piece(None, start, info, size)]
    return [_piece(number, line["start"], line, size) for number, line in enumerate(lines)]


def _piece(segment: Segment, start: float, line: Mapping[str, Any], size: Bucket) -> Piece:
    return Piece(
        segment=segment,
        start=start,
        frames=line["frames"],
        enlargement=line["enlargement"],
        warnings=dict(line["warnings"]),
        signature=line["signature"],
        size=size,
    )
