"""Saved states of a training, read: the newest that is complete and good, whatever the number of ranks that wrote it.

`checkpoints/step-000200/` (of attempt 2 `step-000200-a2/`) holds one shard for each rank of a copy (`mochi_trainer.train.shards`) and
`manifest.json`, which rank 0 writes last (`mochi_trainer.train.saving`).
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mochi_api import layout
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.parallel.group import Group
from mochi_trainer.storage import (
    DamagedObjectError,
    Manifest,
    Store,
    get_entry,
    known,
    read_manifest,
    require_space,
)
from mochi_trainer.train.average import Average
from mochi_trainer.train.misfits import MisfitError, OtherTrainingError
from mochi_trainer.train.places import Place, next_to_try, places
from mochi_trainer.train.shards import (
    AVERAGE,
    Layout,
    State,
    put_state,
    read_shards,
)
from mochi_trainer.train.terms import NONE, Terms, compare_terms

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a training stands, beyond weights and optimizer."""

    step: int
    """Steps completed."""
    loss: float | None
    """Loss of the last step with a finite one."""
    non_finite: int = 0
    """Steps skipped so far."""
    good: bool = True
    """Whether the last step was finite; a state that is not good is never resumed from."""


class Checkpoints:
    """The checkpoints of all attempts of one run.

    `parameters` are those that training changes, by name, and `terms` what they mean; all ranks call alike. An `average`
    begins anew with the weights of a checkpoint that has none.
    """

    def __init__(
        self,
        store: Store,
        group: Group,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        average: Average | None = None,
        terms: Terms = NONE,
    ) -> None:
        self._store, self._group, self._terms = store, group, terms
        self._parameters, self._optimizer, self._average = parameters, optimizer, average
        self._problem = ""
        """Why the checkpoint that was tried last was not used."""
        self._other = ""
        """In what a checkpoint is of another training; empty when none is."""
        self.address = ""
        """That of the checkpoint that was gone on from; empty when there is none."""

    def resume(self) -> Position | None:
        """Load the newest complete good checkpoint of any attempt; None when there is none and training starts anew.

        One that is incomplete, damaged or does not fit is left out with a warning; a store that does not answer ends the
        attempt, since to start anew would throw away what is saved. Raises what the store raises. The store is asked again for each: an
        older attempt that still runs may have put another in the place of one that it removed. Raises InvalidInputError when the
        first that could be used is of another training: to start anew beside it would end in its loss, and an older one may be of
        a version that does not tell.
        """
        found = self._newest(self._store)
        if found is None:
            if other := next(filter(None, self._group.gathered(self._other)), ""):
                raise InvalidInputError(
                    f"{self._store.address('checkpoints')} is of another training: {other}",
                    action="train with the mode, rank, targets, alpha and rsLora that it has, or in another folder (locations.run)",
                )
            return None
        position, place = found
        self.address = self._store.address(place.prefix)
        return position

    def steps(self) -> set[int]:
        """The steps of which there is a complete checkpoint, of any attempt. Raises what the store raises."""
        return {
            place.step
            for place in _places(self._store)
            if self._store.exists(layout.join(place.prefix, layout.MANIFEST))
        }

    def load(self, step: int) -> bool:
        """Load the newest complete checkpoint of `step`; False, with a warning and no change, when there is none to be used."""
        found = [place for place in _places(self._store) if place.step == step] if self._group.first else []
        place = self._group.from_first(found[0] if found else None)
        return place is not None and self._load(self._store, Place(*place)) is not None

    def take_over(self, store: Store) -> Position:
        """As `resume`, from the folder of another run, which stays as it is.

        Raises InvalidInputError when none there can be used, and what the store raises.
        """
        found = self._newest(store)
        if found is None:
            why = f": {self._problem}" if self._problem else ""
            raise InvalidInputError(f"no checkpoint in {store.address()} can be gone on from{why}")
        return found[0]

    def _newest(self, store: Store) -> tuple[Position, Place] | None:
        tried: set[Place] = set()
        while (place := self._next(store, tried)) is not None:
            position = self._load(store, place)
            if position is not None:
                return position, place
            if self._group.any(bool(self._other)):
                return None
            tried.add(place)
        return None

    def _next(self, store: Store, tried: set[Place]) -> Place | None:
        """Rank 0's choice, on every rank."""
        found = self._group.from_first(next_to_try(_places(store), tried) if self._group.first else None)
        return None if found is None else Place(*found)

    def _load(self, store: Store, place: Place) -> Position | None:
        """The position of one checkpoint after loading it on every rank; None, and no change, when any rank cannot."""
        found = None
        with tempfile.TemporaryDirectory(prefix="mochi-checkpoint-") as folder:
            try:
                found = self._read(store, place, Path(folder))
            except (MissingObjectError, DamagedObjectError, MisfitError) as error:
                self._problem = str(error)
                if isinstance(error, OtherTrainingError):
                    self._other = self._problem
        if found is None:
            log.warning("%s is not used: %s", store.address(place.prefix), self._problem)
        if self._group.any(found is None) or found is None:
            return None
        position, state, updates, average_updates = found
        put_state(state, self._parameters, self._optimizer, updates=updates)
        if self._average is not None:
            self._put_average(self._average, state, average_updates)
        return position

    def _put_average(self, average: Average, state: State, updates: int | None) -> None:
        if updates is None:
            log.info("this checkpoint has no average of the weights: it begins with them")
            average.restart()
        else:
            average.put({name: kinds[AVERAGE] for name, kinds in state.items()}, updates)

    def _read(self, store: Store, place: Place, folder: Path) -> tuple[Position, State, int, int | None]:
        manifest = read_manifest(store, place.prefix)
        position, updates, layout_ = described(manifest.details, place)
        if not position.good:
            raise MisfitError("its loss was not finite")
        compare_terms(manifest.details, self._terms)
        state = read_shards(
            lambda name: _fetched(store, manifest, name, folder),
            layout_,
            self._parameters,
            updates=updates,
            averaged=self._average is not None and layout_.average_updates is not None,
        )
        return position, state, updates, layout_.average_updates


def _places(store: Store) -> list[Place]:
    return places(info.key for info in store.list("checkpoints/"))


def _fetched(store: Store, manifest: Manifest, name: str, folder: Path) -> Path:
    path = folder / name
    if not path.exists():
        entry = manifest.entries.get(name)
        require_space(
            folder, 0 if entry is None else entry.size, f"reading {store.address(manifest.key(name))}"
        )
        get_entry(store, manifest, name, path)
    return path


def described(details: Mapping[str, Any], place: Place) -> tuple[Position, int, Layout]:
    """What the manifest of the checkpoint at `place` says: position, number of updates, and how it is stored.

    Fields that a newer version added are ignored. Raises MisfitError when this version cannot use it: nothing but itself
    says that the manifest is as it was written.
    """
    if details.get("format") != FORMAT:
        raise MisfitError(f"its format must be {FORMAT}, got {details.get('format')!r}")
    try:
        position, updates = known(Position, details["position"]), details["updates"]
        layout_ = Layout(
            details["files"], details["shapes"], details["sharded"], details.get("averageUpdates")
        )
        wrong = next(_faults(position, updates, layout_, place), "")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MisfitError(f"its manifest cannot be read: {type(error).__name__} {error}") from error
    if wrong:
        raise MisfitError(f"its manifest cannot be right: {wrong}")
    return position, updates, layout_


def _faults(position: Position, updates: int, layout_: Layout, place: Place) -> Iterator[str]:
    """What in these cannot be so, one after the other."""
    average, loss, step = layout_.average_updates, position.loss, place.step
    said: list[tuple[str, object, bool]] = [
        ("position.step", position.step, _is_count(position.step) and position.step == step),
        ("position.non_finite", position.non_finite, _is_count(position.non_finite, most=step)),
        ("position.loss", loss, loss is None or abs(loss) < math.inf),
        ("position.good", position.good, type(position.good) is bool),
        ("updates", updates, _is_count(updates, most=step)),
        ("averageUpdates", average, average is None or _is_count(average, most=step)),
        ("files", layout_.files, _is_count(layout_.files) and layout_.files > 0),
        ("sharded", layout_.sharded, type(layout_.sharded) is bool),
    ]
    said += [(f"shapes.{name}", shape, all(map(_is_count, shape))) for name, shape in layout_.shapes.items()]
    for name, value, holds in said:
        if not holds:
            yield f"{name} is {value!r:.40} after step {step}"


def _is_count(value: object, *, most: int = 1 << 62) -> bool:
    return type(value) is int and 0 <= value <= most
