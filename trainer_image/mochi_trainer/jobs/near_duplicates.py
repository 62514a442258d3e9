"""Which training clips of a list show nearly the same as earlier ones; they are warned about, none is left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from mochi_api.clips import ClipWarning
from mochi_trainer.errors import ClipError
from mochi_trainer.footage.duplicates import repeats_of_texts
from mochi_trainer.jobs.repeats import repeating
from mochi_trainer.jobs.trimmed import TrimmedClip
from mochi_trainer.video import Readers

log = logging.getLogger(__name__)

MOST = 30_000
"""Clips that are compared with each other: the time grows with the square, 10,000 take a few seconds."""


def with_near_duplicates(
    clips: Sequence[TrimmedClip], signatures: Sequence[str], readers: Readers
) -> list[TrimmedClip]:
    """The clips, those with a warning that repeat an earlier one; `signatures` in the same order, as text."""
    found = near_duplicates(signatures, readers)
    return [
        _repeating(clip, [clips[earlier] for earlier in found.get(number, ())])
        for number, clip in enumerate(clips)
    ]


def near_duplicates(signatures: Sequence[str], readers: Readers) -> dict[int, list[int]]:
    """Clips, by their numbers, that show nearly the same as earlier ones, each with those in order.

    They are compared in one of the workers, whose time and memory are limited, on one processor. What comes behind `MOST` clips is not compared, and none
    is where that fails.
    """
    if len(signatures) > MOST:
        log.warning(
            "only the first %d of %d clips are looked through for near-duplicates", MOST, len(signatures)
        )
    if len(signatures) < 2:
        return {}
    try:
        return readers.run(repeats_of_texts, signatures[:MOST])
    except ClipError as error:
        log.warning("near-duplicates among %d clips are not told: the search %s", len(signatures), error)
        return {}


def _repeating(clip: TrimmedClip, earlier: Sequence[TrimmedClip]) -> TrimmedClip:
    noted = replace(clip, repeats=[each.name for each in earlier])
    if not earlier:
        return noted
    return replace(noted, warnings={**clip.warnings, ClipWarning.NEAR_DUPLICATE: repeating(earlier[0].label)})


def words(clips: Sequence[TrimmedClip]) -> str:
    """How many clips repeat another, with an example, for the stage's message; empty when none does."""
    found = [clip for clip in clips if ClipWarning.NEAR_DUPLICATE in clip.warnings]
    if not found:
        return ""
    first = found[0]
    return f"; near-duplicates: {len(found)}, such as {first.label}, which {first.warnings[ClipWarning.NEAR_DUPLICATE]}"
