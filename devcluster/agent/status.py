"""The status a pod reports, from its containers: pure. Words and reasons are the kubelet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from devcluster.agent.containers import Container, Running, State, Terminated, Waiting, initialised
from devcluster.agent.pods import Stop, StopReason, finished, may_restart

_SILENT = ("ContainerCreating", "PodInitializing")
"""Reasons of waiting without a message: what holds the pod up is told by Events only."""
FINAL = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the pod is."""

    pod_ip: str
    host_ip: str
    started_at: float


def timestamp(seconds: float) -> str:
    """RFC 3339 with whole seconds, as in `metav1.Time`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def phase(containers: Sequence[Container], policy: str, stop: Stop | None) -> str:
    """The pod's phase; how a sidecar ended does not count."""
    if stop is not None and not any(item.running for item in containers):
        return _stopped_phase(containers, stop)
    if finished(containers, policy):
        return "Succeeded" if _all_succeeded(containers) else "Failed"
    if _uninitialised(containers):
        return "Pending"
    if any(isinstance(item.state, Waiting) and item.attempt < 0 for item in containers if item.main):
        return "Pending"
    return "Running"


def _all_succeeded(containers: Sequence[Container]) -> bool:
    return all(item.succeeded for item in containers if not item.sidecar)


def _uninitialised(containers: Sequence[Container]) -> list[str]:
    """Names of the init containers that hold up the main ones."""
    if initialised(containers):
        return []
    return [
        item.name
        for item in containers
        if item.init and not (item.started and item.running if item.sidecar else item.succeeded)
    ]


def _stopped_phase(containers: Sequence[Container], stop: Stop) -> str:
    done = stop.reason is StopReason.DELETED and _all_succeeded(containers)
    return "Succeeded" if done else "Failed"


def pod_status(
    pod: Mapping[str, Any], containers: Sequence[Container], where: Address, stop: Stop | None, now: float
) -> dict[str, Any]:
    """The fields of `status` that the node owns."""
    policy = pod["spec"].get("restartPolicy", "Always")
    current = phase(containers, policy, stop)
    images = {
        item["name"]: item.get("image", "")
        for key in ("initContainers", "containers")
        for item in pod["spec"].get(key, ())
    }
    statuses = {
        main: [
            _container_status(item, pod, images, policy, current) for item in containers if item.main is main
        ]
        for main in (True, False)
    }
    status: dict[str, Any] = {
        "phase": current,
        "conditions": _conditions(pod, containers, current, now),
        "hostIP": where.host_ip,
        "hostIPs": [{"ip": where.host_ip}],
        "podIP": where.pod_ip,
        "podIPs": [{"ip": where.pod_ip}],
        "startTime": timestamp(where.started_at),
        "containerStatuses": sorted(statuses[True], key=lambda item: str(item["name"])),  # as a kubelet does
        "qosClass": pod.get("status", {}).get("qosClass", "BestEffort"),
    }
    if statuses[False]:
        status["initContainerStatuses"] = statuses[False]
    if stop is not None and stop.reason in (StopReason.DEADLINE, StopReason.EVICTED) and current == "Failed":
        status |= {"reason": stop.reason.value, "message": stop.message}
    return status


def _container_status(
    item: Container, pod: Mapping[str, Any], images: Mapping[str, str], policy: str, current: str
) -> dict[str, Any]:
    state, last = _shown_state(item, policy, current), item.last
    if isinstance(state, Waiting) and item.terminated is not None:
        last = item.terminated
    uid = pod["metadata"]["uid"]
    status: dict[str, Any] = {
        "name": item.name,
        "image": images.get(item.name, ""),
        "imageID": f"devcluster://{images.get(item.name, '')}" if item.attempt >= 0 else "",
        "ready": _ready(item),
        "started": item.started and item.running is not None,
        "restartCount": max(item.attempt, 0),
        "state": state_json(state),
        "lastState": state_json(last) if last else {},
    }
    if item.attempt >= 0:
        status["containerID"] = f"devcluster://{uid}/{item.name}/{item.attempt}"
    return status


def _shown_state(item: Container, policy: str, current: str) -> State:
    ended = item.terminated
    if (
        ended is None
        or current in FINAL
        or not may_restart(item, policy)
        or item.retry_at <= ended.finished_at
    ):
        return item.state
    wait = round(item.retry_at - ended.finished_at)
    return Waiting("CrashLoopBackOff", f"back-off {wait}s restarting failed container={item.name}")


def state_json(state: State) -> dict[str, Any]:
    """A container state as the API spells it."""
    if isinstance(state, Waiting):
        message = {"message": state.message} if state.message and state.reason not in _SILENT else {}
        return {"waiting": {"reason": state.reason, **message}}
    if isinstance(state, Running):
        return {"running": {"startedAt": timestamp(state.started_at)}}
    return {"terminated": _terminated_json(state)}


def _terminated_json(state: Terminated) -> dict[str, Any]:
    body: dict[str, Any] = {
        "exitCode": state.code,
        "reason": state.reason or ("Completed" if state.code == 0 else "Error"),
        "startedAt": timestamp(state.started_at),
        "finishedAt": timestamp(state.finished_at),
    }
    if state.signal:
        body["signal"] = state.signal
    if state.message:
        body["message"] = state.message
    return body


def _conditions(
    pod: Mapping[str, Any], containers: Sequence[Container], current: str, now: float
) -> list[dict[str, Any]]:
    unready = [item.name for item in containers if (item.main or item.sidecar) and not _ready(item)]
    uninitialised = _uninitialised(containers)
    ready = _ready_reason(unready, current)
    initialised = (
        False,
        "ContainersNotInitialized",
        f"containers with incomplete status: [{' '.join(uninitialised)}]",
    )
    wanted = {
        "PodReadyToStartContainers": (current not in FINAL and _has_sandbox(containers), "", ""),
        "Initialized": initialised
        if uninitialised
        else (True, "PodCompleted" if current == "Succeeded" else "", ""),
        "Ready": ready,
        "ContainersReady": ready,
    }
    before = {item["type"]: item for item in pod.get("status", {}).get("conditions", ())}
    return [_condition(kind, *value, before.get(kind, {}), now) for kind, value in wanted.items()]


def _ready(item: Container) -> bool:
    """Whether a container is ready; an init container that is no sidecar is so when it is done."""
    if item.init and not item.sidecar:
        return item.succeeded
    return item.ready and item.running is not None


def _has_sandbox(containers: Sequence[Container]) -> bool:
    """Whether the pod has got as far as to its images: volumes are mounted, it has an address."""
    return any(
        item.attempt >= 0 or not (isinstance(item.state, Waiting) and item.state.reason in _SILENT)
        for item in containers
    )


def _ready_reason(unready: Sequence[str], current: str) -> tuple[bool, str, str]:
    if current == "Succeeded":
        return False, "PodCompleted", ""
    if current == "Failed":
        return False, "PodFailed", ""
    if unready:
        return False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    return True, "", ""


def _condition(
    kind: str, value: bool, reason: str, message: str, before: Mapping[str, Any], now: float
) -> dict[str, Any]:
    status = "True" if value else "False"
    same = before.get("status") == status
    return {
        "type": kind,
        "status": status,
        "reason": reason or None,
        "message": message or None,
        "lastProbeTime": None,
        "lastTransitionTime": before.get("lastTransitionTime") if same else timestamp(now),
    }
