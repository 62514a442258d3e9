"""What the operator remembers of a run, as frozen values; `wire` reads it from a status and writes it back.

The attempts are the program counter: which step is at work follows from them, and from nothing that is written for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from mochi_api.outcomes import Reason
from mochi_api.runfile import PREVIEW, STAGES, Stage
from mochi_api.status import (
    Artifacts,
    Best,
    Checkpoint,
    Condition,
    FailedItem,
    MetricValue,
    Previews,
    Resolved,
)

KEPT = 10
"""Attempts of a step that the history keeps."""

STEPS: tuple[Stage, ...] = (*STAGES, PREVIEW)
"""All that a run has: those of its sequence, and the one beside the training."""

Result = Literal["", "Succeeded", "Failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt of a step."""

    number: int
    child: str
    """Name of the object that runs it."""
    started: datetime
    ran: datetime | None = None
    """When all its pods ran for the first time."""
    ended: datetime | None = None
    completed: bool = False
    """Whether it left its result."""
    reason: Reason | None = None
    """Why it ended, for people and for the history."""
    message: str = ""
    exit_code: int | None = None
    last_step: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What keeps a step from going on, and since when."""

    kind: str
    message: str
    since: datetime
    announced: bool = False
    """Whether an Event has told it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """What a step around the training has to show."""

    cache_key: str = ""
    cache_hit: bool = False
    total: int = 0
    done: int = 0
    failed: int = 0
    failures: tuple[FailedItem, ...] = ()
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Where one step stands."""

    name: Stage
    attempts: tuple[Attempt, ...] = ()
    """Newest first, at most `KEPT`."""
    spent: int = 0
    """Failed attempts that count against the budget."""
    furthest: int = 0
    """Last step of the attempt of the training that got furthest."""
    given_up: bool = False
    """No further attempt is made."""
    not_before: datetime | None = None
    """When the next attempt may start."""
    trouble: Trouble | None = None
    items: Items = Items()

    @property
    def number(self) -> int:
        """Number of the newest attempt, 0 before the first."""
        return self.attempts[0].number if self.attempts else 0

    @property
    def current(self) -> Attempt | None:
        """The attempt that runs."""
        newest = next(iter(self.attempts), None)
        return newest if newest is not None and newest.ended is None else None

    @property
    def completed(self) -> bool:
        """Whether an attempt has left the step's result."""
        return bool(self.attempts) and self.attempts[0].completed

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.completed or self.given_up

    def with_new(self, attempt: Attempt) -> Step:
        """The same with one more attempt."""
        return replace(self, attempts=(attempt, *self.attempts)[:KEPT], not_before=None, trouble=None)

    def with_newest(self, attempt: Attempt) -> Step:
        """The same with the newest attempt replaced."""
        return replace(self, attempts=(attempt, *self.attempts[1:]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """Progress of the training, for people."""

    step: int = 0
    total_steps: int = 0
    percent: int = 0
    remaining_seconds: int | None = None
    loss: str = ""
    metrics: tuple[MetricValue, ...] = ()
    replicas_running: int = 0
    last_step: datetime | None = None
    last_heartbeat: datetime | None = None
    updated: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A status as the operator thinks of it."""

    conditions: tuple[Condition, ...] = ()
    result: Result = ""
    """How the run has ended; empty while it goes on."""
    resolved: Resolved | None = None
    steps: Mapping[Stage, Step] = field(default_factory=lambda: {name: Step(name=name) for name in STEPS})
    numbers: Numbers = Numbers()
    checkpoint: Checkpoint | None = None
    best: Best | None = None
    previews: Previews = field(default_factory=Previews)
    artifacts: Artifacts | None = None

    def with_step(self, step: Step) -> State:
        """The same with one step replaced."""
        return replace(self, steps={**self.steps, step.name: step})
