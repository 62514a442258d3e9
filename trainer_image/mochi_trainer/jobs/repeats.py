"""Which clips of the trim stage's list show nearly the same as earlier ones, as the training asks: nothing is compared here."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api.clips import ClipWarning
from mochi_trainer.jobs.trimmed import TrimmedClip


def repeating(label: str) -> str:
    """What the warning says of a clip that repeats the one called `label`."""
    return f"shows nearly the same as {label}"


def repeats_in(clips: Sequence[TrimmedClip]) -> dict[str, list[str]]:
    """Names of the clips that repeat earlier ones, each with the names of those.

    A list of an earlier version has only the first of them, in its warning.
    """
    warned = {repeating(clip.label): clip.name for clip in clips}
    found: dict[str, list[str]] = {}
    for clip in clips:
        first = warned.get(clip.warnings.get(ClipWarning.NEAR_DUPLICATE, ""))
        names = clip.repeats if clip.repeats is not None else [first] if first else []
        if names:
            found[clip.name] = list(names)
    return found
