"""Pods that wait to run: a queue, a free node, and how long that may take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from mochi_api.outcomes import Reason
from mochi_operator.build.pod import GPU_PRODUCT_LABEL
from mochi_operator.snapshot import Case, Pod
from mochi_operator.verdicts.finding import Finding, View


def suspended(view: View) -> Finding | None:
    """A queue, or a person, holds the child back."""
    if not view.child.suspended:
        return None
    ref = view.child.ref
    return Finding(kind="suspended", message=f"{ref.kind} {ref.name} is suspended (by a queue?)")


def unschedulable(view: View) -> Finding | None:
    """No node fits."""
    pod = next((pod for pod in view.pods if pod.unschedulable and not pod.ended), None)
    if pod is None:
        return None
    return Finding(
        kind="unschedulable", message=f"{pod.name}{_asked(view, pod.unschedulable)}: {pod.unschedulable}"
    )


def peers(view: View) -> Finding | None:
    """Some pods run, and others do not yet: that is no stall, also where those that run wait for them."""
    missing = [pod.name for pod in view.pods if not (pod.running or pod.succeeded)]
    if view.expected == 1 or not missing or len(missing) == len(view.pods):
        return None
    named = ", ".join(missing[:4])
    return Finding(
        kind="peers", message=f"the others wait for {named}" if view.gang else f"not up yet: {named}"
    )


def too_long(view: View, others: Sequence[Finding]) -> Finding | None:
    """The attempt has waited to run for longer than it may; `others` is what it waits for."""
    if view.attempt.ran is not None or view.child.suspended:
        return None
    return past_deadline(view.case, view.attempt.started, others)


def past_deadline(case: Case, since: datetime, others: Sequence[Finding]) -> Finding | None:
    """Whether something that has waited `since` then has waited for longer than it may; 0 is no limit."""
    limit = case.spec.run_policy.pre_running_deadline_seconds
    if not limit or case.age(since) <= limit:
        return None
    why = others[0].message if others else "its pods do not start"
    message = f"waited longer than runPolicy.preRunningDeadlineSeconds = {limit}: {why}"
    return Finding(kind="deadline", reason=Reason.DEADLINE_EXCEEDED, message=message)


def last_pods(pods: Sequence[Pod]) -> Finding:
    """Pods of the last attempt that have not ended: they may be saving, and two attempts never run side by side."""
    named = ", ".join(pod.name for pod in pods[:4])
    return Finding(kind="last-pods", message=f"the next attempt waits until {named} of the last one is gone")


def _asked(view: View, said: str) -> str:
    """The wish of ours that the scheduler most likely speaks of."""
    workers = view.case.spec.workers
    if not view.gpus:
        return ""
    if "affinity" in said and workers.gpu_products:
        products = ", ".join(workers.gpu_products)
        return f" asks for a node with the label {GPU_PRODUCT_LABEL} = {products} (workers.gpuProducts)"
    if workers.gpu_resource_name in said:
        return f" asks for {view.gpus} x {workers.gpu_resource_name}"
    return ""
