"""Which clips a run trains on and which it holds out: chosen when it begins, and the same for all its attempts.

The choice is kept in the run's folder, since what it was made from may be gone or read otherwise by then: losses of clips that
are held out can only be compared when they are of the same clips.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import NamedTuple

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.data import Split, split
from mochi_trainer.documents import json_object
from mochi_trainer.errors import MissingObjectError
from mochi_trainer.jobs.repeats import repeats_in
from mochi_trainer.jobs.trimmed import read_trimmed
from mochi_trainer.parallel.group import Group
from mochi_trainer.storage import Store, open_store
from mochi_trainer.train.places import places

log = logging.getLogger(__name__)


class _Kept(NamedTuple):
    """What an earlier attempt has chosen, as names of clips."""

    held_out: frozenset[str]
    left_out: frozenset[str]

    def of(self, clips: Sequence[str]) -> Split:
        out = self.held_out | self.left_out
        return Split(
            tuple(index for index, clip in enumerate(clips) if clip not in out),
            tuple(index for index, clip in enumerate(clips) if clip in self.held_out),
        )


def parted(run: RunFile, store: Store, clips: Sequence[str], group: Group) -> Split:
    """The clips (names) of a run, parted alike on every rank; `store` is rooted at the run's folder.

    A run that began with a version which did not keep the choice goes on with that version's. Raises InvalidInputError when
    no clip would be left to train on, and what the store raises.
    """
    asked = run.training.validation.clips
    if asked == 0:
        return split(clips, asked)
    kept, repeats = group.from_first(_known(run, store, clips) if group.first else None)
    if kept is not None:
        return _Kept(*kept).of(clips)
    parts = split(clips, asked, repeats)
    if group.first:
        store.write_bytes(layout.HELD_OUT, json.dumps(_document(parts, clips, asked), indent=1).encode())
    return parts


def _known(
    run: RunFile, store: Store, clips: Sequence[str]
) -> tuple[tuple[frozenset[str], frozenset[str]] | None, dict[str, list[str]]]:
    """What was chosen for these clips, or else those that show nearly the same as others, each with those."""
    try:
        document = json_object(store.read_bytes(layout.HELD_OUT))
        if document["of"] == _of(clips, run.training.validation.clips):
            return (frozenset(document["heldOut"]), frozenset(document["leftOut"])), {}
    except MissingObjectError:
        if places(info.key for info in store.list("checkpoints/")):
            return None, {}
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged and chosen anew: %s", store.address(layout.HELD_OUT), error)
    return None, _repeats(run)


def _repeats(run: RunFile) -> dict[str, list[str]]:
    """As far as the trim stage's list is there to tell."""
    if not run.keys.trim:
        return {}
    try:
        return repeats_in(read_trimmed(open_store(run.locations.cache, run.s3), run).clips)
    except MissingObjectError as error:
        log.warning("a clip may be held out that shows nearly the same as one that is trained on: %s", error)
        return {}


def _document(parts: Split, clips: Sequence[str], asked: int | None) -> dict[str, object]:
    return {
        "of": _of(clips, asked),
        "heldOut": [clips[index] for index in parts.held_out],
        "leftOut": [clips[index] for index in parts.left_out(len(clips))],
    }


def _of(clips: Sequence[str], asked: int | None) -> str:
    """What was chosen from, so that other clips or another number are chosen from anew."""
    return hashlib.sha256(json.dumps([asked, *clips]).encode()).hexdigest()
