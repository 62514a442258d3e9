"""Containers that have ended: their own outcome first, then what the node, the cluster and the exit code say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime

from pydantic_core import from_json

from mochi_api.outcomes import DISRUPTIONS, ROWS, Outcome, Reason, row_of_exit_code
from mochi_api.reading import lenient
from mochi_operator.snapshot import Container, Pod
from mochi_operator.verdicts.finding import Finding, View

_NODE_REASONS = ("DeletionByTaintManager", "DeletionByPodGC")
_EFFECTS = (Reason.COLLECTIVE_TIMEOUT, Reason.SUPERSEDED, *DISRUPTIONS)
"""Ends that often follow from the end of another rank."""
_KIND = "failed"
_OUT_OF_MEMORY = "OOMKilled"
_KILLED = 137
"""Exit code of a program that was killed."""
_FORGOTTEN = "ContainerStatusUnknown"
_NEVER_RAN = ("StartError", "ContainerCannotRun")
_RUNTIME: Sequence[tuple[re.Pattern[str], Reason]] = (
    (re.compile(r"nvidia|nvml|cdi device|libcuda", re.IGNORECASE), Reason.DEVICE_UNAVAILABLE),
    (re.compile(r"exec: |exec format error|exec /|chdir to cwd"), Reason.IMAGE_UNAVAILABLE),
    (
        re.compile(r"memory limit|memory\.(max|limit)|cpu\.(max|cfs)|cannot allocate memory", re.IGNORECASE),
        Reason.POD_REFUSED,
    ),
)
"""What container runtimes say of a GPU, of an image without our program or for other processors, and of odd limits."""
_NO_DEVICE = "Allocate failed"


def one_failed(view: View) -> Finding | None:
    """One pod that fails ends the attempt, though others may run on and wait for it."""
    return cause(view.pods)


def child_failed(view: View) -> Finding | None:
    """The child says that it failed, but no failed pod is there to say why: it was deleted or evicted.

    The training operator calls a pod failed as soon as it is to be deleted. While such a pod still saves what it has, or
    its node is silent, nothing is known yet: its end tells more.
    """
    if view.child.state != "Failed" or any(pod.gone_by is not None and not pod.ended for pod in view.pods):
        return None
    message = f"{view.child.message.rstrip('.')}, and its pod is gone: it was deleted or evicted"
    return Finding(kind=_KIND, reason=Reason.PREEMPTED, message=message)


def cause(pods: Sequence[Pod]) -> Finding | None:
    """The failure that brought the others about: the earliest that is not itself the effect of a lost peer.

    A pod that was deleted before its container ended fails when it has to be gone, not when it was made.
    """
    failures = [(pod, finding) for pod in pods if (finding := pod_failure(pod)) is not None]

    def order(item: tuple[Pod, Finding]) -> tuple[bool, datetime, int]:
        pod, finding = item
        return finding.reason in _EFFECTS, pod.main.finished or pod.gone_by or pod.created, pod.rank

    return min(failures, key=order)[1] if failures else None


def pod_failure(pod: Pod) -> Finding | None:
    """Why a pod has failed, or None while it has not."""
    if pod.main.exit_code == 0 or (pod.phase != "Failed" and not pod.main.exit_code):
        return None
    found = next((finding for check in _POD_CHECKS if (finding := check(pod)) is not None), None)
    return found or _failure(pod, Reason.UNKNOWN, _ended(pod))


def outcome(pod: Pod) -> Outcome | None:
    """The last line of our container's termination message, as far as it can be read."""
    lines = pod.main.termination_message.strip().splitlines()
    if not lines:
        return None
    try:
        raw = from_json(lines[-1])
    except ValueError:
        return None
    return lenient(Outcome, raw)


def _from_outcome(pod: Pod) -> Finding | None:
    line = outcome(pod)
    if line is None or line.reason == Reason.COMPLETED:
        return None
    if line.reason == Reason.UNKNOWN and pod.main.ended_reason == _OUT_OF_MEMORY:
        return None  # one of several processes was killed, and the kubelet knows why
    return Finding(
        kind=_KIND,
        reason=line.reason,
        message=f"{pod.name}: {line.message or ROWS[line.reason].action}",
        exit_code=pod.main.exit_code,
        last_step=line.step,
        outcome=line,
    )


def _from_kernel(pod: Pod) -> Finding | None:
    killed = next((item for item in (pod.main, *pod.foreign) if item.ended_reason == _OUT_OF_MEMORY), None)
    if killed is None or (killed is not pod.main and pod.main.exit_code is not None):
        return None
    whose = "the container" if killed is pod.main else f"the container {killed.name}, which is not ours,"
    return _failure(pod, Reason.OUT_OF_MEMORY, f"{pod.name}: {whose} used more than its memory limit")


def _from_disruption(pod: Pod) -> Finding | None:
    """Before the exit code: a disrupted program may end with any."""
    if not pod.disruption:
        return None
    reason = Reason.NODE_LOST if pod.disruption in _NODE_REASONS else Reason.PREEMPTED
    if "ephemeral" in pod.message:
        reason = Reason.DISK_FULL
    return _failure(pod, reason, f"{pod.name}: {pod.message or pod.disruption_message or pod.disruption}")


def _from_deletion(pod: Pod) -> Finding | None:
    """Somebody deleted the pod before its container ran, or it was killed at the end of its grace period."""
    if pod.gone_by is None or pod.main.exit_code not in (None, _KILLED):
        return None
    return _failure(pod, Reason.PREEMPTED, f"{pod.name}: the pod was deleted")


def _from_runtime(pod: Pod) -> Finding | None:
    """The container was made and could not be started, or nobody knows any more what became of it."""
    if pod.main.ended_reason == _FORGOTTEN:
        return _failure(pod, Reason.NODE_LOST, f"{pod.name}: its node has lost the container: {_said(pod)}")
    if pod.main.ended_reason not in _NEVER_RAN:
        return None
    reason = next((reason for pattern, reason in _RUNTIME if pattern.search(_said(pod))), Reason.UNKNOWN)
    return _failure(pod, reason, f"{pod.name}: the container cannot be started: {_said(pod)}")


def _from_admission(pod: Pod) -> Finding | None:
    """The node has taken the pod and has no device for it: a plugin that restarts, or a GPU that has failed."""
    if pod.main.exit_code is not None or _NO_DEVICE not in pod.message:
        return None
    return _failure(pod, Reason.DEVICE_UNAVAILABLE, f"{pod.name}: {pod.message}")


def _from_code(pod: Pod) -> Finding | None:
    row = row_of_exit_code(pod.main.exit_code) if pod.main.exit_code else None
    if row is None or row.reason == Reason.UNKNOWN:
        return None
    return _failure(pod, row.reason, _ended(pod))


def _from_foreign(pod: Pod) -> Finding | None:
    """Ours never ran: an init container or a sidecar that others injected has failed."""
    failed = next((item for item in pod.foreign if item.exit_code), None)
    if failed is None or pod.main.exit_code is not None:
        return None
    text = (
        f"{pod.name}: the container {failed.name}, which is not ours, ended with exit code {failed.exit_code}"
    )
    return _failure(pod, Reason.UNKNOWN, f"{text}: {last_line(failed)}".rstrip(": "))


_POD_CHECKS: Sequence[Callable[[Pod], Finding | None]] = (
    _from_outcome,
    _from_kernel,
    _from_disruption,
    _from_deletion,
    _from_runtime,
    _from_admission,
    _from_code,
    _from_foreign,
)


def last_line(container: Container) -> str:
    """The last line that a container left for its termination message."""
    return next(reversed(container.termination_message.strip().splitlines()), "")


def _said(pod: Pod) -> str:
    """What the runtime has left, on one line."""
    return " ".join(pod.main.termination_message.split()) or pod.message or pod.main.ended_reason


def _failure(pod: Pod, reason: Reason, message: str) -> Finding:
    return Finding(kind=_KIND, reason=reason, message=message, exit_code=pod.main.exit_code)


def _ended(pod: Pod) -> str:
    if pod.main.exit_code is None:
        return f"{pod.name}: {pod.message or 'the pod failed before its container ran'}"
    return f"{pod.name}: the container ended with exit code {pod.main.exit_code} and left no outcome"
