"""Checkpoints, written while training goes on: by all ranks, made valid by the manifest that rank 0 writes last.

1. Every rank takes a copy of its rows, which is all that training waits for.
2. A thread of each rank stores the copy; training goes on. A store that is away is asked again and again.
3. After each step the ranks tell each other how far they are. When all shards are there, a thread of rank 0 stores the
   series and the manifest, and removes old checkpoints.

The ranks agree in the main thread, between two steps, over the network that training uses anyhow: the store is asked for
nothing more, and no two collectives can meet. The price is that the manifest of several ranks comes up to a step later than
the last shard; a rank alone writes both in one go. One checkpoint is under way at a time, since one copy is held. When the
next is due it waits for the one before, or takes its place when the store is away.

A store that answers and refuses (keys that have run out, a permission that is gone) is asked again as one that is away: the
files with the keys are renewed with their Secret. But an outage ends by itself, and this does not: where nothing but refusals
came for the patience, the next checkpoint that is due ends the attempt with them as its reason, instead of a step that nobody
can keep.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mochi_api.outcomes import ROWS
from mochi_trainer.errors import AccessDeniedError, StorageError, TrainerError
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.group import Group
from mochi_trainer.storage import Entry, Store
from mochi_trainer.train.average import Average
from mochi_trainer.train.checkpoint import FORMAT, Position
from mochi_trainer.train.completion import Completion
from mochi_trainer.train.copies import Copy
from mochi_trainer.train.errand import Away, Errand
from mochi_trainer.train.gauges import Gauges
from mochi_trainer.train.places import Place
from mochi_trainer.train.refusals import Refusals
from mochi_trainer.train.shards import own_file, own_state, shapes_of, updates_of
from mochi_trainer.train.terms import FIELD, Terms

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Between two looks at how far all ranks are, where training waits for them."""
PATIENCE_SECONDS = 180.0
"""How long the last checkpoint of an attempt is waited for while nothing moves, and any while it is refused: as long as any other
call to the store, and twice as long as a kubelet takes to bring a renewed Secret."""

MOST_LOST = 20
"""So many tries of the last checkpoint of an attempt may fail after something has moved in them: a store that takes every byte and
then says that it is busy would be waited for without an end."""

GO_ON = "correct the S3 credentials or the permissions of the bucket, then go on from the newest checkpoint with training.resumeFrom"


@dataclass(kw_only=True, slots=True)
class _UnderWay:
    """A checkpoint that is not complete."""

    position: Position
    details: dict[str, object]
    """Of the manifest, as of that step."""
    started: float
    errand: Errand[list[Entry]]
    """What this rank does for it now, or did last."""
    last: bool
    """Whether that is all: the shards of the other ranks are there, or there are none."""


class Saving:
    """Writes the checkpoints of one attempt. All ranks call alike, in the main thread.

    `parameters` are those that training changes, by name, and `terms` what they mean.
    """

    def __init__(
        self,
        store: Store,
        group: Group,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        copy: Copy,
        completion: Completion,
        gauges: Gauges,
        *,
        terms: Terms,
        attempt: int,
        patience: float,
    ) -> None:
        self.store = store
        """The run's folder, asked with little patience."""
        self._group, self._copy = group, copy
        self._completion, self._gauges = completion, gauges
        self._parameters, self._optimizer, self._average = parameters, optimizer, average
        self._terms, self._attempt, self._patience = terms, attempt, patience
        self._file = own_file(parameters, rank=group.rank, world=group.world)
        self._under_way: _UnderWay | None = None
        self._refusals = Refusals()
        """Of this rank."""
        self._away = self._moving = False
        """Whether, when the ranks last looked, the store did not answer one of them, and whether anything had moved."""
        self.step = 0
        """Step of the newest complete checkpoint of this attempt; 0 without one."""
        self.address = ""
        """Its address; empty without one."""
        self.seconds = 0.0
        """The longest that one took, from the copy to the end."""

    def spare(self, step: int | None) -> None:
        """Keep the checkpoint of `step` from now on, however many newer ones there are; None keeps no such one."""
        self._completion.spared = step

    def begin(self, position: Position) -> None:
        """Copy the state after `position.step` steps and let a thread store it; `make_room` comes before it.

        Raises DiskFullError when the copy goes to the disk and does not fit.
        """
        started = time.monotonic()
        if self._file.written:
            self._copy.take(
                own_state(self._parameters, self._optimizer, self._average, first=self._group.first)
            )
        details, alone = self._details(position), self._group.world == 1
        stored: list[Entry] = []

        def write(check: Callable[[], None]) -> list[Entry]:
            if self._file.written and not stored:  # else only the manifest is tried again
                stored.append(
                    self._copy.put(self.store, self._place(position).prefix, self._file.name, check)
                )
            return self._manifest(position, details, stored) if alone else stored

        self._under_way = _UnderWay(
            position=position,
            details=details,
            started=started,
            errand=self._errand(write, position.step),
            last=alone,
        )

    def advance(self) -> bool:
        """Go on with what is under way as far as the ranks are; whether it has become complete.

        Raises what the store raises, where asking it again does not help.
        """
        ours = self._under_way
        if ours is None:
            return False
        errand = ours.errand
        states = [float(not errand.done), float(errand.problem is not None), float(errand.moved())]
        busy, away, moving = self._group.total(states)
        self._away, self._moving = away > 0, moving > 0
        if self._away:
            self._gauges.save_delayed(self._why(ours)[0])
        if busy:
            return False
        if ours.last:
            self._completed(ours)
            return True
        position, details = ours.position, ours.details
        entries = list(chain.from_iterable(self._group.gathered(errand.found)))
        ours.last = True
        if self._group.first:
            ours.errand = self._errand(lambda _: self._manifest(position, details, entries), position.step)
        return False

    def make_room(self) -> None:
        """Wait until nothing is under way. What is, is dropped when the store is away: the newest is worth more.

        Raises AccessDeniedError or StorageError when the store has refused for longer than the patience.
        """
        while self._under_way is not None and not self._looked():
            if self._away:
                self._end_if_refused(self._under_way, self._patience)
                self._drop(self._under_way)

    def finish(self, *, refused_seconds: float | None = None) -> None:
        """Wait until what is under way is complete.

        Raises StorageError when the store is away for longer than the patience or fails `MOST_LOST` times on the way, and that or
        AccessDeniedError when it refuses for longer than `refused_seconds`, or the patience.
        """
        refused = self._patience if refused_seconds is None else refused_seconds
        since = time.monotonic()
        while self._under_way is not None and not self._looked():
            if self._away:
                self._end_if_refused(self._under_way, refused)
            if not self._away or self._moving:
                since = time.monotonic()
            still, lost = time.monotonic() - since > self._patience, self._under_way.errand.lost >= MOST_LOST
            found_still, found_lost = self._group.total([float(still), float(lost)])
            if found_lost:
                self._give_up(self._under_way, f"{MOST_LOST} tries were cut off or turned away")
            if found_still:
                self._give_up(self._under_way, f"nothing has moved for {self._patience:.0f} s")

    def close(self) -> None:
        """Let go of what is under way."""
        if self._under_way is not None:
            self._under_way.errand.drop()

    def _looked(self) -> bool:
        """`advance` after a moment; for the operator it is movement when something has moved on any rank."""
        if self._under_way is not None:
            self._under_way.errand.wait(LOOK_SECONDS)
        complete = self.advance()
        if self._moving:
            PROCESS.moved()
        return complete

    def _completed(self, ours: _UnderWay) -> None:
        self._under_way = None
        self._refusals.over()
        seconds = time.monotonic() - ours.started
        self.step, self.seconds = ours.position.step, max(self.seconds, seconds)
        self.address = self.store.address(self._place(ours.position).prefix)
        self._gauges.saved(self.step, self.address, seconds)
        log.info("checkpoint of step %d saved in %.2f s", self.step, seconds)

    def _drop(self, ours: _UnderWay) -> None:
        ours.errand.drop()
        self._under_way = None
        self._gauges.save_dropped()
        log.warning(
            "checkpoint of step %d is given up unsaved after %.0f s, a newer one takes its place; %s",
            ours.position.step,
            time.monotonic() - ours.started,
            self._newest(),
        )

    def _end_if_refused(self, ours: _UnderWay, patience: float) -> None:
        """On all ranks with the same reason, once any of them has been refused for longer than `patience`."""
        refused = self._group.gathered(self._refusals.seconds)
        if max(refused) <= patience:
            return
        text, action, denied = self._why(ours)
        kind: type[TrainerError] = AccessDeniedError if denied else StorageError
        raise kind(
            f"no checkpoint could be stored for {max(refused):.0f} s, and training ends before that of another step is lost; "
            f"{self._newest()}: {text}",
            step=ours.position.step,
            action=action or GO_ON,
        )

    def _why(self, ours: _UnderWay) -> tuple[str, str | None, bool]:
        """Why a rank cannot store what is under way, what to do, and whether a permission is missing."""
        problem = ours.errand.problem
        own = (
            None
            if problem is None
            else (str(problem), problem.action, isinstance(problem, AccessDeniedError))
        )
        return next((each for each in self._group.gathered(own) if each), ("no answer", None, False))

    def _newest(self) -> str:
        return f"the newest complete one is {self.address or 'that of an earlier attempt, if there is one'}"

    def _give_up(self, ours: _UnderWay, because: str) -> None:
        text, action, _ = self._why(ours)
        raise StorageError(
            f"the checkpoint of step {ours.position.step} could not be stored, {because}: {text}",
            step=ours.position.step,
            action=action,
        )

    def _manifest(
        self, position: Position, details: Mapping[str, object], entries: list[Entry]
    ) -> list[Entry]:
        self._completion.complete(self._place(position), entries, details, good=position.good)
        return entries

    def _errand(self, act: Callable[[Callable[[], None]], list[Entry]], step: int) -> Errand[list[Entry]]:
        return Errand(act, name="checkpoint", failed=lambda error: self._failed(step, error))

    def _failed(self, step: int, error: Away) -> None:
        """In the errand's thread."""
        self._refusals.failed(error)
        self._gauges.save_failed()
        action = error.action or ROWS[error.reason].action
        log.warning(
            "checkpoint of step %d is not stored yet, training goes on: %s; what to do: %s",
            step,
            error,
            action,
        )

    def _place(self, position: Position) -> Place:
        return Place(position.step, self._attempt)

    def _details(self, position: Position) -> dict[str, object]:
        return {
            "format": FORMAT,
            "position": asdict(position),
            "files": self._file.files,
            "sharded": any(isinstance(p, DTensor) for p in self._parameters.values()),
            "updates": updates_of(self._parameters, self._optimizer),
            "shapes": shapes_of(self._parameters),
            FIELD: dict(self._terms),
            **({} if self._average is None else {"averageUpdates": self._average.updates}),
        }
