"""What to do with a pod, given its spec and its containers: pure decisions, the clock is an argument.

The order of questions:
1. must the pod stop (deleted, evicted, past its deadline)?  -> SIGTERM, after the grace period SIGKILL
2. has every container but sidecars reached its end?         -> the same for the sidecars
3. does an init container have to run first?                 -> that one
4. which containers may start, or start again now?           -> those
Sidecars stop after all others, in the reverse of their order. A container whose liveness probe failed is stopped with
the same grace period and then falls under 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from devcluster.agent.containers import Container, initialised

DEFAULT_GRACE = 30.0
BACK_OFF_LIMIT = 300.0
LEAST_GRACE = 2.0
"""Seconds a sidecar has to end when the others have used up the grace period."""
HEALTHY_AFTER = 600.0
"""Seconds a container must have run for its back-off to start afresh."""
DELAY_ANNOTATION = "devcluster/stop-delay-seconds"
"""On a pod: how long its node is too slow to do anything about its deletion; for tests."""


class StopReason(StrEnum):
    """Why a pod stops before its containers have ended."""

    DELETED = "Deleted"
    GONE = "Gone"
    DEADLINE = "DeadlineExceeded"
    EVICTED = "Evicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The pod must stop: SIGTERM now, SIGKILL `grace` seconds after it."""

    reason: StopReason
    message: str
    grace: float
    not_before: float = 0.0
    """The node does nothing about it until then."""


class Verb(StrEnum):
    """What the worker can do to a container."""

    START = "start"
    TERMINATE = "terminate"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do now."""

    verb: Verb
    container: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again at the latest (None: when something happens)."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None


def stop_order(pod: Mapping[str, Any], now: float, started_at: float) -> Stop | None:
    """Whether the pod must stop; the strongest reason wins."""
    metadata, spec = pod["metadata"], pod["spec"]
    if "deletionTimestamp" in metadata:
        grace = float(metadata.get("deletionGracePeriodSeconds", grace_period(spec)))
        return Stop(reason=StopReason.DELETED, message="", grace=grace, not_before=_delayed(metadata, grace))
    evicted = _eviction(pod)
    if evicted is not None:
        return Stop(reason=StopReason.EVICTED, message=evicted, grace=grace_period(spec))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and now >= started_at + deadline:
        message = "Pod was active on the node longer than the specified deadline"
        return Stop(reason=StopReason.DEADLINE, message=message, grace=grace_period(spec))
    return None


def _delayed(metadata: Mapping[str, Any], grace: float) -> float:
    """When the node takes note of a deletion: at once, unless a test has slowed it down."""
    delay = float(metadata.get("annotations", {}).get(DELAY_ANNOTATION, 0))
    asked = datetime.fromisoformat(metadata["deletionTimestamp"]).timestamp() - grace
    return asked + delay if delay else 0.0


def _eviction(pod: Mapping[str, Any]) -> str | None:
    for item in pod.get("status", {}).get("conditions", ()):
        if (item["type"], item["status"], item.get("reason")) == (
            "DisruptionTarget",
            "True",
            "TerminationByKubelet",
        ):
            return str(item.get("message", "")) or "The node was low on resource"
    return None


def grace_period(spec: Mapping[str, Any]) -> float:
    """Seconds between SIGTERM and SIGKILL."""
    return float(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE))


def finished(containers: Sequence[Container], policy: str) -> bool:
    """Whether nothing of the pod runs or will run again."""
    return _over(containers, policy) and not any(item.running for item in containers)


def _over(containers: Sequence[Container], policy: str) -> bool:
    """Whether all but sidecars have reached their end."""
    counted = [item for item in containers if not item.sidecar]
    if any(item.running for item in counted):
        return False
    if _init_failed(counted, policy):
        return True
    return all(item.terminated and not may_restart(item, policy) for item in counted if item.main)


def _init_failed(containers: Sequence[Container], policy: str) -> bool:
    return policy == "Never" and any(
        item.init and item.terminated and not item.succeeded for item in containers
    )


def may_restart(container: Container, policy: str) -> bool:
    """Whether an ended container is to be started again: sidecars always, other init containers not after success."""
    if container.sidecar:
        return True
    if policy == "Never":
        return False
    if container.init or policy == "OnFailure":
        return not container.succeeded
    return True


def plan(pod: Mapping[str, Any], containers: Sequence[Container], now: float, stop: Stop | None) -> Plan:
    """What to do now."""
    spec = pod["spec"]
    policy = spec.get("restartPolicy", "Always")
    if stop is not None:
        return _stopping(containers, stop.grace, now) if now >= stop.not_before else Plan((), stop.not_before)
    if _over(containers, policy):
        return _stopping(containers, grace_period(spec), now)
    sick = _signals([item for item in containers if item.running and item.unhealthy], grace_period(spec), now)
    starts = [item for item in _startable(containers) if item.terminated is None or may_restart(item, policy)]
    due = tuple(Action(Verb.START, item.name) for item in starts if item.retry_at <= now)
    later = [item.retry_at for item in starts if item.retry_at > now]
    return Plan(sick.actions + due, _earliest([*later, sick.wake_at, _deadline(pod)]))


def _deadline(pod: Mapping[str, Any]) -> float | None:
    """When the pod's active deadline passes; the start of a pod is told by its status."""
    limit, started = pod["spec"].get("activeDeadlineSeconds"), pod.get("status", {}).get("startTime")
    if limit is None or started is None:
        return None
    return datetime.fromisoformat(started).timestamp() + float(limit)


def _startable(containers: Sequence[Container]) -> list[Container]:
    """The containers whose turn it is and that do not run; an init container's turn ends when it is done, or started."""
    turn: list[Container] = []
    for item in [] if initialised(containers) else containers:
        if item.init:
            turn.append(item)
            if not (item.started and item.running if item.sidecar else item.succeeded):
                return [item for item in turn if not item.running and not _done(item)]
    return [item for item in containers if (item.main or item.sidecar) and not item.running]


def _done(item: Container) -> bool:
    return item.succeeded and not item.sidecar


def _stopping(containers: Sequence[Container], grace: float, now: float) -> Plan:
    """End what runs: all but sidecars at once, then one sidecar after the other, the last one first.

    All have one grace period together; a sidecar whose turn comes late has a moment at least.
    """
    running = [item for item in containers if item.running]
    others = [item for item in running if not item.sidecar]
    turn = others or running[-1:]
    if grace > 0:
        running = [item for item in running if item in turn or item.signalled_at is not None]
    asked = (item.signalled_at for item in containers if not item.sidecar and item.signalled_at is not None)
    return _signals(running, grace, now, max(asked, default=None))


def _signals(running: Sequence[Container], grace: float, now: float, began: float | None = None) -> Plan:
    """SIGTERM to those that have had none; SIGKILL when the grace period is over, for sidecars since `began`."""
    actions: list[Action] = []
    wakes: list[float] = []
    for item in running:
        asked = now if item.signalled_at is None else item.signalled_at
        kill_at = asked + grace
        if item.sidecar and began is not None:
            kill_at = max(began + grace, asked + min(grace, LEAST_GRACE))
        if now >= kill_at:
            actions.append(Action(Verb.KILL, item.name))
            continue
        if item.signalled_at is None:
            actions.append(Action(Verb.TERMINATE, item.name))
        wakes.append(kill_at)
    return Plan(tuple(actions), _earliest(wakes))


def _earliest(times: Sequence[float | None]) -> float | None:
    return min((item for item in times if item is not None), default=None)


def next_back_off(container: Container, ran_for: float, base: float) -> tuple[float, float]:
    """(seconds to wait before the next start, seconds after the failure that follows).

    The first restart is immediate, then base, 2 base, 4 base ... up to 300 s; a long healthy run starts afresh.
    """
    wait = 0.0 if ran_for >= HEALTHY_AFTER else container.back_off
    return wait, min(max(2 * wait, base), BACK_OFF_LIMIT)
