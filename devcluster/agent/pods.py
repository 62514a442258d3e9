"""What to do with a pod, given its spec and its containers: pure decisions, the clock is an argument.

The order of questions:
1. must the pod stop (deleted, evicted, past its deadline)?  -> SIGTERM, after the grace period SIGKILL
2. has every container reached its end?                      -> nothing
3. does an init container have to run first?                 -> that one
4. which containers may start, or start again now?           -> those
A container whose liveness probe failed is stopped with the same grace period and then falls under 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from devcluster.agent.containers import Container

DEFAULT_GRACE = 30.0
BACK_OFF_LIMIT = 300.0
HEALTHY_AFTER = 600.0
"""Seconds a container must have run for its back-off to start afresh."""


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
        grace = metadata.get("deletionGracePeriodSeconds", grace_period(spec))
        return Stop(reason=StopReason.DELETED, message="", grace=float(grace))
    evicted = _eviction(pod)
    if evicted is not None:
        return Stop(reason=StopReason.EVICTED, message=evicted, grace=grace_period(spec))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and now >= started_at + deadline:
        message = "Pod was active on the node longer than the specified deadline"
        return Stop(reason=StopReason.DEADLINE, message=message, grace=grace_period(spec))
    return None


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
    if any(item.running for item in containers):
        return False
    if _init_failed(containers, policy):
        return True
    main = [item for item in containers if not item.init]
    return all(item.terminated and not may_restart(item, policy) for item in main)


def _init_failed(containers: Sequence[Container], policy: str) -> bool:
    return policy == "Never" and any(
        item.init and item.terminated and not item.succeeded for item in containers
    )


def may_restart(container: Container, policy: str) -> bool:
    """Whether an ended container is to be started again; init containers never after success."""
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
        return _stopping([item for item in containers if item.running], stop.grace, now)
    if finished(containers, policy):
        return Plan()
    sick = _stopping(
        [item for item in containers if item.running and item.unhealthy], grace_period(spec), now
    )
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
    """The containers whose turn it is and that do not run."""
    for item in containers:
        if item.init and not item.succeeded:
            return [] if item.running else [item]
    return [item for item in containers if not item.init and not item.running]


def _stopping(running: Sequence[Container], grace: float, now: float) -> Plan:
    actions: list[Action] = []
    wakes: list[float] = []
    for item in running:
        if grace <= 0 or (item.signalled_at is not None and now >= item.signalled_at + grace):
            actions.append(Action(Verb.KILL, item.name))
            continue
        if item.signalled_at is None:
            actions.append(Action(Verb.TERMINATE, item.name))
        wakes.append((item.signalled_at or now) + grace)
    return Plan(tuple(actions), _earliest(wakes))


def _earliest(times: Sequence[float | None]) -> float | None:
    return min((item for item in times if item is not None), default=None)


def next_back_off(container: Container, ran_for: float, base: float) -> tuple[float, float]:
    """(seconds to wait before the next start, seconds after the failure that follows).

    The first restart is immediate, then base, 2 base, 4 base ... up to 300 s; a long healthy run starts afresh.
    """
    wait = 0.0 if ran_for >= HEALTHY_AFTER else container.back_off
    return wait, min(max(2 * wait, base), BACK_OFF_LIMIT)
