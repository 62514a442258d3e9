"""Which clips are trained on and which are held out: a pure function of their names, alike for every run, rank and resume."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from mochi_api.resolved import MOST_HELD_OUT
from mochi_trainer.errors import InvalidInputError

FEWEST = 20
"""Source clips from which on some are held out unasked: of fewer each one is missed."""
SHARE = 10
"""One in so many is held out unasked."""


class Split(NamedTuple):
    """Indices of clips; a segment of a held out clip that is not its first is in neither."""

    training: tuple[int, ...]
    held_out: tuple[int, ...]


def split(clips: Sequence[str], asked: int | None) -> Split:
    """`asked` source clips of the dataset are held out, as many as are usual when None; the order stays.

    A source clip goes with all its segments, since they resemble each other. The choice does not depend on the seed, so that
    the losses of runs can be compared, and a clip more changes little. Raises InvalidInputError when no clip would be left.
    """
    sources = sorted({source_of(clip) for clip in clips})
    count = usual(len(sources)) if asked is None else asked
    if count >= len(sources):
        raise InvalidInputError(
            f"training.validation.clips must be less than the {len(sources)} clips of the dataset, got {count}",
            action="hold fewer clips out, or none with training.validation.clips: 0",
        )
    out = set(sorted(sources, key=lambda source: hashlib.sha256(source.encode()).digest())[:count])
    first: dict[str, int] = {}
    for index, clip in enumerate(clips):
        if source_of(clip) in out:
            first.setdefault(source_of(clip), index)
    training = (index for index, clip in enumerate(clips) if source_of(clip) not in out)
    return Split(tuple(training), tuple(first.values()))


def usual(sources: int) -> int:
    """How many of so many source clips are held out when nothing is said."""
    return min(sources // SHARE, MOST_HELD_OUT) if sources >= FEWEST else 0


def source_of(clip: str) -> str:
    """The source clip of a segment (`name__03`), or the clip itself: no source has two underscores in its name."""
    return clip.rpartition("__")[0] or clip
