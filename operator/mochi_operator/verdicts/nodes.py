"""Pods that are being deleted, and nodes that no longer do what they are told."""

from __future__ import annotations

from datetime import timedelta

from mochi_api.outcomes import Reason
from mochi_operator.snapshot import Case, Pod
from mochi_operator.verdicts.finding import Finding, View

SLACK = timedelta(seconds=30)
"""A kubelet that lives has removed a pod so soon after the end of its grace period."""


def lost(view: View) -> Finding | None:
    """A pod should be gone, but its node does not answer: it is given up and replaced elsewhere."""
    for pod in view.pods:
        if not pod.ended and unreachable(pod, view.case):
            why = pod.disruption_message or "it should have ended long ago"
            message = f"{pod.name}: its node {pod.node or '(unknown)'} does not answer: {why}"
            return Finding(kind="node", reason=Reason.NODE_LOST, message=message)
    return None


def terminating(view: View) -> Finding | None:
    """A pod is being stopped and may save what it has; its end tells the rest."""
    pod = next((pod for pod in view.pods if pod.gone_by is not None and not pod.ended), None)
    if pod is None:
        return None
    why = pod.disruption_message or pod.disruption or "it was deleted"
    return Finding(kind="terminating", message=f"{pod.name} is being stopped: {why}")


def unreachable(pod: Pod, case: Case) -> bool:
    """Whether a pod is past the time by which a kubelet would have removed it."""
    return pod.gone_by is not None and case.now > pod.gone_by + SLACK
