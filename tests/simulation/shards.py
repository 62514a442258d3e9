"""Stages that several pods share: units in the store, claims on them, and a first shard that writes the list of all."""

from __future__ import annotations

from mochi_api.outcomes import Outcome, Reason
from mochi_operator.cluster import JOBS
from tests.simulation.nodes import Runtime
from tests.simulation.store import owner
from tests.simulation.trainer import Job, Trainer, Work, index_of, result_of

UNITS = 6
POLL_SECONDS = 2.0
DEAD_SECONDS = 45.0
"""A claim of a process that was killed is overtaken after so long."""
STUCK_SECONDS = 645.0
"""And that of one in which nothing moves."""


class Share:
    """The units of one stage of one run, whichever attempt made them."""

    def __init__(self) -> None:
        self.made: set[int] = set()
        self.written = False
        """Whether the first shard has written the list of all."""
        self.begun: set[int] = set()
        """Attempts whose first shard has begun."""
        self._claims: dict[int, Shard] = {}

    @property
    def whole(self) -> bool:
        """Whether every unit is there."""
        return len(self.made) == UNITS

    def take(self, shard: Shard) -> int | None:
        """A unit that nobody makes, of the shard's own share if there is one."""
        free = [
            unit
            for unit in range(UNITS)
            if unit not in self.made and (unit not in self._claims or self._claims[unit].past(shard))
        ]
        unit = min(free, key=lambda unit: (unit % shard.count != shard.rank, unit), default=None)
        if unit is not None:
            self._claims[unit] = shard
        return unit

    def leave(self, shard: Shard) -> None:
        """Let go what the shard has claimed."""
        self._claims = {unit: holder for unit, holder in self._claims.items() if holder is not shard}


class Shard(Job):
    """The program of one pod of a stage that several share."""

    def __init__(self, trainer: Trainer, runtime: Runtime, work: Work, stage: str, attempt: int) -> None:
        self.share = share_of(work, stage)
        meta = runtime.pod["metadata"]
        job = trainer.store.get(JOBS.name, meta["namespace"], owner(runtime.pod)["name"])
        self.count = 1 if job is None else int(job["spec"]["completions"])
        self.gone_at = 0.0
        self.begun_at = trainer.kernel.seconds
        super().__init__(trainer, runtime, work, stage, attempt)

    def begin(self) -> None:
        """Take units until all are there; what goes wrong, goes wrong on the way."""
        self.rank, self.total = int(index_of(self.runtime.pod) or 0), UNITS
        if self.rank == 0:
            self.share.begun.add(self.attempt)
        super().begin()
        self._next()

    def past(self, other: Shard) -> bool:
        """Whether `other` may overtake what this one has claimed."""
        now = self.trainer.kernel.seconds
        if other.attempt != self.attempt or other.rank == self.rank:
            return True
        if self.ended:
            return now - self.gone_at > DEAD_SECONDS
        return not self.moving and now - self.moved > STUCK_SECONDS

    def well(self) -> None:
        """The end comes with the last unit, not after a time."""

    def _next(self) -> None:
        if self.ended or not self.moving:
            return
        kernel = self.trainer.kernel
        self.done = len(self.share.made)
        if self.share.whole:
            kernel.later(kernel.between(0.1, 3), self._finish)
            return
        unit = self.share.take(self)
        if unit is None:
            kernel.later(POLL_SECONDS, self._next)
        else:
            seconds = self.trainer.script.stage_seconds * kernel.between(0.5, 1.5)
            kernel.later(seconds * 2 / UNITS, self._make, unit)

    def _make(self, unit: int) -> None:
        if not self.ended and self.moving:
            self.share.made.add(unit)
            self._next()

    def _finish(self) -> None:
        if self.ended or not self.moving:
            return
        mute = self.mishap is not None and self.mishap.kind == "mute"
        if self.rank == 0:
            self.share.written = True
            self.exit(0, None if mute else result_of(self.stage, self.work))
            return
        if self.runtime.sidecar == "ordinary" and self.attempt not in self.share.begun:
            # Its place stays taken, and the first may never have one.
            self.trainer.tell(self.work.uid, self.stage, self.attempt, Reason.STALLED)
        self.exit(0, None if mute else Outcome(reason=Reason.COMPLETED, rank=self.rank))

    def exit(self, code: int, outcome: Outcome | None, reason: str = "") -> None:
        """End with a code and a last word; claims are let go."""
        if not self.ended and code != 137:
            self.share.leave(self)
        self.gone_at = self.trainer.kernel.seconds
        super().exit(code, outcome, reason)

    def kill(self) -> None:
        """Gone without a word; claims stay."""
        self.gone_at = self.trainer.kernel.seconds
        super().kill()


def share_of(work: Work, stage: str) -> Share:
    """What is in the store of one stage of a run."""
    found = work.shares.get(stage)
    if not isinstance(found, Share):
        found = work.shares[stage] = Share()
    return found
