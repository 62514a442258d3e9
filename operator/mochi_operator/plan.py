"""What one pass over a run does: values that can be printed and compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from mochi_api.runfile import Stage
from mochi_api.status import ConditionType
from mochi_operator import conditions
from mochi_operator.cluster import Manifest
from mochi_operator.conditions import Truth
from mochi_operator.snapshot import ObjectRef
from mochi_operator.state import State, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """An Event on the run."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A child to make: its ConfigMap and the object that runs it."""

    step: Stage
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A plan in the making; every policy returns a new one."""

    state: State
    now: datetime
    starts: tuple[Start, ...] = ()
    deletes: tuple[ObjectRef, ...] = ()
    outlived: tuple[str, ...] = ()
    """Children that are gone: their run files go before anything is made."""
    notes: tuple[Note, ...] = ()
    wake_seconds: float | None = None
    """When to look again at the latest, whatever the watches report."""
    settled: bool = False
    """True when no later policy may add anything."""

    def with_state(self, state: State) -> Draft:
        """The same with another state."""
        return replace(self, state=state)

    def with_step(self, step: Step) -> Draft:
        """The same with one step replaced."""
        return replace(self, state=self.state.with_step(step))

    def set_condition(self, kind: ConditionType, truth: Truth, reason: str, message: str = "") -> Draft:
        """The same with one condition changed."""
        return self.with_state(conditions.set_condition(self.state, kind, truth, reason, message, self.now))

    def starting(self, start: Start) -> Draft:
        """The same with one more child to make."""
        return replace(self, starts=(*self.starts, start))

    def deleting(self, *refs: ObjectRef) -> Draft:
        """The same with more objects to delete."""
        return replace(self, deletes=(*self.deletes, *refs))

    def outliving(self, *children: str) -> Draft:
        """The same with the names of more children that are gone."""
        return replace(self, outlived=(*self.outlived, *children))

    def normal(self, reason: str, message: str) -> Draft:
        """The same with one more Event."""
        return replace(self, notes=(*self.notes, Note(type="Normal", reason=reason, message=message)))

    def warning(self, reason: str, message: str) -> Draft:
        """The same with one more Warning."""
        return replace(self, notes=(*self.notes, Note(type="Warning", reason=reason, message=message)))

    def waking(self, seconds: float) -> Draft:
        """The same, looked at again after at most `seconds`."""
        sooner = seconds if self.wake_seconds is None else min(seconds, self.wake_seconds)
        return replace(self, wake_seconds=max(0.0, sooner))

    def settle(self) -> Draft:
        """The same, closed to later policies."""
        return replace(self, settled=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Creates, then the status, then deletes, then Events: in this order a kill between any two loses nothing.

    A run file goes before the child that it is of, or before the next one is made: after a kill it is found again.
    """

    outlived: tuple[str, ...] = ()
    """Names of children that are gone, whose run files may still be there."""
    creates: tuple[Manifest, ...] = ()
    status: dict[str, Any] | None = None
    """The status to write, or None when it is already so."""
    deletes: tuple[ObjectRef, ...] = ()
    notes: tuple[Note, ...] = ()
    wake_seconds: float | None = None
    state: State | None = None
    """What the operator makes of the run, for its metrics; None when it does not look at it."""
