"""Follows one MochiFineTune through the API server, as any user could: its status and its Events, never S3."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from demo.deadline import Deadline
from demo.kubectl import Kubectl, KubectlError
from mochi_api import identity
from mochi_api.outcomes import ROWS, Reason
from mochi_api.status import FineTuneStatus

PATIENCE_SECONDS = 30.0
"""So long the API server may be silent before the watch gives up."""


class Event(NamedTuple):
    """One Event of the resource."""

    time: datetime
    kind: str
    """Normal or Warning."""
    reason: str
    message: str


class Point(NamedTuple):
    """One loss."""

    step: int
    loss: float


class End(NamedTuple):
    """How the run ended."""

    succeeded: bool
    reason: str
    message: str

    @property
    def action(self) -> str:
        """What a user does about it, from the table of reasons."""
        known = self.reason in set(Reason)
        return ROWS[Reason(self.reason)].action if known else "look at the Events and at the pod's log"


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What was seen at one moment."""

    name: str
    mode: str
    status: FineTuneStatus
    events: tuple[Event, ...] = ()
    """In the order of their times."""
    losses: tuple[Point, ...] = field(default=())
    """The losses seen so far, one for each step looked at."""


def end(status: FineTuneStatus) -> End | None:
    """How the run ended, or None while it goes on; a run that is given up without a verdict (Stalled) has ended."""
    true = {condition.type: condition for condition in status.conditions if condition.status == "True"}
    for kind in ("Succeeded", "Failed", "Stalled"):
        if kind in true:
            return End(kind == "Succeeded", true[kind].reason, true[kind].message)
    return None


def parse_time(text: str) -> datetime:
    """A Kubernetes timestamp; the zone is always given."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def parse_event(raw: Mapping[str, Any]) -> Event:
    """An Event of either API (core/v1 has `lastTimestamp`, the new one `eventTime`)."""
    moment = raw.get("lastTimestamp") or raw.get("eventTime") or raw["metadata"]["creationTimestamp"]
    return Event(parse_time(moment), raw.get("type", "Normal"), raw.get("reason", ""), raw.get("message", ""))


def with_loss(losses: tuple[Point, ...], status: FineTuneStatus) -> tuple[Point, ...]:
    """`losses` and the one in `status`, if it is a number and of a new step; a restart drops the steps after it."""
    training = status.training
    if training is None or not training.loss:
        return losses
    loss = float(training.loss)
    if not math.isfinite(loss):
        return losses
    return (*(point for point in losses if point.step < training.step), Point(training.step, loss))


def look(kubectl: Kubectl, name: str, losses: tuple[Point, ...] = ()) -> Observation:
    """One look at the resource and its Events; raise KubectlError when the API server does not answer."""
    raw = kubectl.json("get", f"{identity.PLURAL}.{identity.GROUP}", name, seconds=15)
    status = FineTuneStatus.model_validate(raw.get("status", {}))
    selector = f"involvedObject.name={name},involvedObject.uid={raw['metadata']['uid']}"
    found = kubectl.json("get", "events", f"--field-selector={selector}", seconds=15)["items"]
    return Observation(
        name=name,
        mode=raw["spec"]["mode"],
        status=status,
        events=tuple(sorted(parse_event(item) for item in found)),
        losses=with_loss(losses, status),
    )


def follow(
    kubectl: Kubectl, name: str, deadline: Deadline, *, interval: float = 1.5
) -> Iterator[Observation]:
    """Yield what is seen every `interval` seconds; the last one is of the ended run.

    Raises DeadlineError when the time is up, KubectlError when the API server is silent for `PATIENCE_SECONDS`.
    """
    losses: tuple[Point, ...] = ()
    answered = time.monotonic()
    while True:
        pause = deadline.left(f"MochiFineTune {name}", interval)
        try:
            seen = look(kubectl, name, losses)
        except KubectlError:
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        else:
            answered, losses = time.monotonic(), seen.losses
            yield seen
            if end(seen.status) is not None:
                return
        time.sleep(pause)
