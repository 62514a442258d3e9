"""Which clips are trained on and which are held out: a pure function of their names and of which of them show nearly the same,
alike for every run, rank and resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, takewhile
from types import MappingProxyType
from typing import NamedTuple

from mochi_api.resolved import MOST_HELD_OUT
from mochi_trainer.errors import InvalidInputError

FEWEST = 20
"""Source clips from which on some are held out unasked: of fewer each one is missed."""
SHARE = 10
"""One in so many is held out unasked."""

NO_REPEATS: Mapping[str, Sequence[str]] = MappingProxyType({})


class Split(NamedTuple):
    """Indices of clips; one that shows nearly what a held out clip shows, or is a segment of the same source, is in neither."""

    training: tuple[int, ...]
    held_out: tuple[int, ...]

    def left_out(self, clips: int) -> list[int]:
        """Those of so many that are in neither."""
        return sorted(set(range(clips)) - {*self.training, *self.held_out})


def split(
    clips: Sequence[str], asked: int | None, repeats: Mapping[str, Sequence[str]] = NO_REPEATS
) -> Split:
    """`asked` clips of the dataset are held out, as many as are usual when None; the order stays.

    `repeats` has the clips that show nearly the same as others, each with those. They go together, and so do all segments of
    a source clip: the loss of a clip that is trained on under another name falls for ever. Clips that are like no other are
    held out first, since they cost no others. The choice does not depend on the seed, so that the losses of runs can be
    compared, and a clip more changes little. Raises InvalidInputError when no clip would be left.
    """
    families = sorted(_families(clips, repeats), key=lambda family: (len(family), _rank(family)))
    count = _usual_of(families) if asked is None else asked
    if count >= len(families):
        raise InvalidInputError(_too_many(families, count), action=_FEWER)
    out = {source: number for number, family in enumerate(families[:count]) for source in family}
    first: dict[int, int] = {}
    for index, clip in enumerate(clips):
        if (number := out.get(source_of(clip))) is not None:
            first.setdefault(number, index)
    training = (index for index, clip in enumerate(clips) if source_of(clip) not in out)
    return Split(tuple(training), tuple(sorted(first.values())))


_FEWER = "hold fewer clips out, or none with training.validation.clips: 0"


def _too_many(families: Sequence[Sequence[str]], count: int) -> str:
    sources = sum(map(len, families))
    differ = f"{len(families)} that differ among the " if len(families) < sources else ""
    return (
        f"training.validation.clips must be less than the {differ}{sources} clips of the dataset, got {count}"
    )


def _usual_of(families: Sequence[Sequence[str]]) -> int:
    """As many of these, in order, as have no more source clips together than are usually held out."""
    sizes = [len(family) for family in families]
    most = usual(sum(sizes))
    return len(list(takewhile(lambda total: total <= most, accumulate(sizes))))


def usual(sources: int) -> int:
    """How many of so many source clips are held out when nothing is said."""
    return min(sources // SHARE, MOST_HELD_OUT) if sources >= FEWEST else 0


def source_of(clip: str) -> str:
    """The source clip of a segment (`name__03`), or the clip itself: no source has two underscores in its name."""
    return clip.rpartition("__")[0] or clip


def _families(clips: Sequence[str], repeats: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """The source clips, in sets of those that show nearly the same, directly or by way of others."""
    like: dict[str, set[str]] = {source_of(clip): set() for clip in clips}
    for clip, others in repeats.items():
        for one, other in ((source_of(clip), source_of(each)) for each in others):
            like.setdefault(one, set()).add(other)
            like.setdefault(other, set()).add(one)
    there, seen = {source_of(clip) for clip in clips}, set[str]()
    for source in sorted(there):
        if source not in seen:
            found = _reached(source, like)
            seen |= found
            yield sorted(found & there)


def _reached(source: str, like: Mapping[str, set[str]]) -> set[str]:
    found, coming = {source}, [source]
    while coming:
        new = like[coming.pop()] - found
        found |= new
        coming += new
    return found


def _rank(family: Sequence[str]) -> bytes:
    return min(hashlib.sha256(source.encode()).digest() for source in family)
