"""What the command footage prints: a table for a person on a terminal, one JSON object a line everywhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from mochi_api.clips import WARNING_MEANINGS, ClipReason, ClipWarning
from mochi_trainer.footage.captioning import Captioned
from mochi_trainer.footage.duplicates import Group
from mochi_trainer.footage.passes import Overview
from mochi_trainer.footage.segments import Stretch

WIDTHS = (32, 11, 9, 5)
"""Characters of the columns film, size, length and cuts; segments and warnings take what they need."""


class Table:
    """Rows in the order in which they become known; each is written at once."""

    def __init__(self) -> None:
        self._person = sys.stdout.isatty()
        self._headed = False

    def film(self, key: str, found: Overview, segments: Sequence[Stretch]) -> None:
        """A film that could be read."""
        size = f"{found.width}x{found.height}"
        warnings = [{"warning": str(each.kind), "message": each.message} for each in found.warnings]
        row = {
            "film": key,
            "size": size,
            "fps": found.fps,
            "seconds": found.seconds,
            "cuts": [_times(change) for change in found.changes],
            "segments": [_times(segment) for segment in segments],
            "warnings": warnings,
        }
        if not self._headed and self._person:
            self._headed = True
            sys.stdout.write(_columns("film", "size", "length", "cuts") + "segments (seconds)\n")
        text = _columns(key, size, f"{found.seconds:.2f} s", str(len(found.changes)))
        text += " ".join(f"{each.start:.2f}-{each.end:.2f}" for each in segments) or "none is long enough"
        self._tell(
            row, "\n".join([text, *(f"    {each['warning']}: {each['message']}" for each in warnings)])
        )

    def failure(self, key: str, problem: tuple[ClipReason, str]) -> None:
        """A film or a clip that could not be read or made."""
        reason, message = problem
        self._tell({"film": key, "reason": str(reason), "message": message}, f"{key}: {reason}: {message}")

    def groups(self, found: Sequence[Group]) -> None:
        """Films that show nearly the same."""
        for group in found:
            row = {
                "warning": str(ClipWarning.NEAR_DUPLICATE),
                "keep": group.kept,
                "others": list(group.others),
            }
            meaning = WARNING_MEANINGS[ClipWarning.NEAR_DUPLICATE]
            text = (
                f"{ClipWarning.NEAR_DUPLICATE}: {meaning}: keep {group.kept}, not {', '.join(group.others)}"
            )
            self._tell(row, text)

    def clip(self, name: str, key: str, segment: Stretch) -> None:
        """A clip that lies in the folder now."""
        row = {"clip": name, "film": key, "segment": _times(segment)}
        self._tell(row, f"{name}  from {key}, {segment.start:.2f} to {segment.end:.2f} s")

    def caption(self, done: Captioned) -> None:
        """What came of asking for a caption."""
        row = {"clip": done.name, **({"error": done.error} if done.error else {"caption": done.caption})}
        self._tell(row, f"{done.name}  {done.caption or 'no caption: ' + done.error}")

    def _tell(self, row: dict[str, Any], text: str) -> None:
        sys.stdout.write((text if self._person else json.dumps(row, ensure_ascii=False)) + "\n")
        sys.stdout.flush()


def _columns(*texts: str) -> str:
    return "".join(f"{text:<{width}} " for text, width in zip(texts, WIDTHS, strict=True))


def _times(stretch: Stretch) -> list[float]:
    return [round(stretch.start, 3), round(stretch.end, 3)]
