"""What one pass over a run does: values that can be printed and compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mochi_api.runfile import Stage
from mochi_api.status import FineTuneStatus
from mochi_operator.cluster import Manifest
from mochi_operator.snapshot import ObjectRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """An Event on the run."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A child to make: its ConfigMap and the object that runs it."""

    stage: Stage
    attempt: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A plan in the making; every policy returns a new one."""

    status: FineTuneStatus
    starts: tuple[Start, ...] = ()
    deletes: tuple[ObjectRef, ...] = ()
    notes: tuple[Note, ...] = ()
    wake_seconds: float | None = None
    """When to look again at the latest, whatever the watches report."""
    settled: bool = False
    """True when no later policy may add anything."""

    def with_status(self, **changes: object) -> Draft:
        """The same with fields of the status replaced."""
        return replace(self, status=self.status.model_copy(update=changes))

    def starting(self, start: Start) -> Draft:
        """The same with one more child to make."""
        return replace(self, starts=(*self.starts, start))

    def deleting(self, *refs: ObjectRef) -> Draft:
        """The same with more objects to delete."""
        return replace(self, deletes=(*self.deletes, *refs))

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
    """Creates, then the status, then deletes, then Events: in this order a kill between any two loses nothing."""

    creates: tuple[Manifest, ...] = ()
    status: FineTuneStatus | None = None
    """The status to write, or None when it is already so."""
    deletes: tuple[ObjectRef, ...] = ()
    notes: tuple[Note, ...] = ()
    wake_seconds: float | None = None
