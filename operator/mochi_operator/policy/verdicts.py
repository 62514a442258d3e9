"""Why a pod, or the object that makes it, does not do what it should; ordered checks over what was observed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from mochi_api.outcomes import ROWS, Outcome, Reason, row_of_exit_code
from mochi_operator.snapshot import Child, Pod

IMAGE_SECONDS = 180
"""An image that cannot be pulled for so long is reported; registries have short outages."""
OBJECT_SECONDS = 60
"""A missing Secret, ConfigMap or claim may still be on its way for so long."""
REFUSED_SECONDS = 60
"""Pods that the API server refuses for so long are given up."""
SILENT_SECONDS = 300
"""A controller that makes no pod for so long, without a word, does not run."""

_IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CREATE_REASONS = ("CreateContainerError", "RunContainerError")
_NODE_REASONS = ("DeletionByTaintManager", "DeletionByPodGC")
_MISSING = re.compile(r"""(?:secret|configmap|persistentvolumeclaim) "[^"]+" not found|couldn't find key""")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Why something ended or must end."""

    reason: Reason
    message: str
    exit_code: int | None = None
    last_step: int | None = None


def outcome(pod: Pod) -> Outcome | None:
    """The last line of the pod's termination message, if it can be read."""
    lines = pod.termination_message.strip().splitlines()
    if not lines:
        return None
    try:
        return Outcome.model_validate_json(lines[-1])
    except ValidationError:
        return None


def pod_failure(pod: Pod) -> Verdict | None:
    """Why a pod has failed, or None while it has not."""
    if pod.phase != "Failed" and not pod.exit_code:
        return None
    found = next((verdict for check in _POD_CHECKS if (verdict := check(pod)) is not None), None)
    return found or Verdict(reason=Reason.UNKNOWN, message=_ended(pod), exit_code=pod.exit_code)


def cause(pods: Sequence[Pod]) -> Verdict | None:
    """The failure that brought the others about: the earliest that is not itself an effect of a lost peer."""
    failures = [(pod, verdict) for pod in pods if (verdict := pod_failure(pod)) is not None]
    if not failures:
        return None
    effects = (Reason.COLLECTIVE_TIMEOUT, Reason.PREEMPTED)

    def order(item: tuple[Pod, Verdict]) -> tuple[bool, datetime, int]:
        pod, verdict = item
        return verdict.reason in effects, pod.finished or pod.created, pod.rank

    return min(failures, key=order)[1]


def latest(pods: Sequence[Pod]) -> Verdict | None:
    """The failure of the pod that failed last, for a Job that tried several times."""
    failed = [pod for pod in pods if pod_failure(pod) is not None]
    return pod_failure(max(failed, key=lambda pod: pod.finished or pod.created)) if failed else None


def stuck(pods: Sequence[Pod], now: datetime) -> Verdict | None:
    """Why one of the pods will not start, once it has had the time to."""
    return next((verdict for pod in pods if (verdict := _stuck(pod, now)) is not None), None)


def podless(child: Child, pods: Sequence[Pod], expected: int, now: datetime) -> Verdict | None:
    """Why the pods of `child` are not made, once there was time for it.

    A Job and a PyTorchJob whose pods are refused by admission say so in no condition, only in Warning events.
    """
    if child.suspended or child.deleting or len(pods) >= expected:
        return None
    age = (now - child.created).total_seconds()
    if child.warning:
        # Quota may be freed; that wait is bounded by preRunningDeadlineSeconds only.
        final = age > REFUSED_SECONDS and "exceeded quota" not in child.warning
        return Verdict(reason=Reason.POD_REFUSED, message=child.warning) if final else None
    if pods or age <= SILENT_SECONDS:
        return None
    message = f"no pod was made for {child.ref.kind} {child.ref.name} within {SILENT_SECONDS} s; its controller is silent"
    return Verdict(reason=Reason.BACKEND_UNAVAILABLE, message=message)


def late(pods: Sequence[Pod], limit_seconds: int, now: datetime) -> Verdict | None:
    """Whether a pod has waited to run for longer than runPolicy.preRunningDeadlineSeconds; 0 is no limit."""
    for pod in pods if limit_seconds else ():
        if pod.phase == "Pending" and (now - pod.created).total_seconds() > limit_seconds:
            hint = pod.unschedulable or " ".join(_words(pod)) or "it does not start"
            message = f"{pod.name}: waited longer than runPolicy.preRunningDeadlineSeconds = {limit_seconds}: {hint}"
            return Verdict(reason=Reason.DEADLINE_EXCEEDED, message=message)
    return None


def waiting(child: Child, pods: Sequence[Pod]) -> str:
    """What a child that does not run yet is waiting for, empty when there is nothing to say."""
    for pod in pods:
        if pod.waiting_reason or pod.unschedulable:
            return f"{pod.name}: {pod.unschedulable or ' '.join(_words(pod))}"
    return child.warning


def _words(pod: Pod) -> list[str]:
    return [text for text in (pod.waiting_reason, pod.waiting_message) if text]


def _from_outcome(pod: Pod) -> Verdict | None:
    line = outcome(pod)
    if line is None or line.reason == Reason.COMPLETED:
        return None
    message = f"{pod.name}: {line.message or ROWS[line.reason].action}"
    return Verdict(reason=line.reason, message=message, exit_code=pod.exit_code, last_step=line.step)


def _from_kernel(pod: Pod) -> Verdict | None:
    if pod.terminated_reason != "OOMKilled":
        return None
    message = f"{pod.name}: the container used more than its memory limit"
    return Verdict(reason=Reason.OUT_OF_MEMORY, message=message, exit_code=pod.exit_code)


def _from_disruption(pod: Pod) -> Verdict | None:
    """Before the exit code: a disrupted program may end with any."""
    if not pod.disruption:
        return None
    reason = Reason.NODE_LOST if pod.disruption in _NODE_REASONS else Reason.PREEMPTED
    if "ephemeral" in pod.message:
        reason = Reason.DISK_FULL
    message = f"{pod.name}: {pod.message or pod.disruption_message or pod.disruption}"
    return Verdict(reason=reason, message=message, exit_code=pod.exit_code)


def _from_code(pod: Pod) -> Verdict | None:
    row = row_of_exit_code(pod.exit_code) if pod.exit_code else None
    if row is None or row.reason == Reason.UNKNOWN:
        return None
    return Verdict(reason=row.reason, message=_ended(pod), exit_code=pod.exit_code)


_POD_CHECKS: Sequence[Callable[[Pod], Verdict | None]] = (
    _from_outcome,
    _from_kernel,
    _from_disruption,
    _from_code,
)


def _ended(pod: Pod) -> str:
    if pod.exit_code is None:
        return f"{pod.name}: {pod.message or 'the pod failed before its container ran'}"
    return f"{pod.name}: the container ended with exit code {pod.exit_code} and left no outcome"


def _stuck(pod: Pod, now: datetime) -> Verdict | None:
    age = (now - pod.created).total_seconds()
    text = f"{pod.name}: {pod.waiting_message or pod.waiting_reason}"
    if pod.waiting_reason in _IMAGE_REASONS and age > IMAGE_SECONDS:
        return Verdict(reason=Reason.IMAGE_UNAVAILABLE, message=text)
    if pod.waiting_reason == "CreateContainerConfigError" and age > OBJECT_SECONDS:
        known = _MISSING.search(pod.waiting_message) is not None
        return Verdict(reason=Reason.MISSING_OBJECT if known else Reason.POD_REFUSED, message=text)
    if pod.waiting_reason in _CREATE_REASONS and age > IMAGE_SECONDS:
        return Verdict(reason=Reason.POD_REFUSED, message=text)
    if _MISSING.search(pod.unschedulable) is not None and age > OBJECT_SECONDS:
        return Verdict(reason=Reason.MISSING_OBJECT, message=f"{pod.name}: {pod.unschedulable}")
    return None
