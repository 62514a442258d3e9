"""Objects that are not made: our own child, or the pods that its controller should make, refused or forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from mochi_api.outcomes import Reason
from mochi_operator.snapshot import EventWarning, Pod, Refusal
from mochi_operator.verdicts import quotas
from mochi_operator.verdicts.finding import Finding, View
from mochi_operator.verdicts.quotas import Misfit

REFUSED_SECONDS = 60.0
"""Admission that refuses an object for so long means it; a policy may just be rolled out."""
SILENT_SECONDS = 300.0
"""A controller that makes no pod for so long, without a word, does not run."""
QUIET_SECONDS = 30.0
"""A controller that has made no pod for so long is worth a word."""
STALE = timedelta(minutes=20)
"""An Event that was last seen so long ago says nothing about now; controllers try again at least so often."""

_QUOTA = ("exceeded quota", "insufficient quota", "status unknown for quota")
"""Not `failed quota: must specify ...`: that pod will not fit when others end."""
_PASSING = (
    "failed calling webhook", "internal error occurred", "context deadline exceeded", "connection refused", "timeout",
    "timed out", "the server is currently unable", "too many requests", "etcdserver", "already exists", "eof",
    "no endpoints available", "is being terminated",
)  # fmt: skip
"""What API servers and webhooks say when the object is not at fault."""


def refused_child(refusal: Refusal) -> Finding:
    """Why our own child could not be created; all but what the object itself is blamed for may pass."""
    message = f"{refusal.ref.kind} {refusal.ref.name} cannot be created: {refusal.message}"
    if refusal.cause in ("invalid", "admission"):
        patience = REFUSED_SECONDS if refusal.cause == "admission" else 0.0
        return Finding(kind="refused", reason=Reason.POD_REFUSED, message=message, patience=patience)
    return Finding(kind=refusal.cause, message=_shut(message))


def refused_pods(view: View) -> Finding | None:
    """Why the controller of the child can make no pod; a Job and a PyTorchJob say so in Warning events only."""
    if (
        len(view.pods) + view.collected >= view.expected
        or view.child.warning is None
        or _stale(view, view.child.warning)
    ):
        return None
    text = view.child.warning.message
    lower = text.lower()
    ref = f"{view.child.ref.kind} {view.child.ref.name}"
    misfit = quotas.misfit(text, view.child.step, view.expected if view.gang else 1)
    if misfit is None and any(words in lower for words in _QUOTA):
        return Finding(kind="quota", message=f"{ref}: {_shut(text)}")
    if misfit is None and any(words in lower for words in _PASSING):
        return Finding(kind="unavailable", message=f"{ref}: {text}")
    return Finding(
        kind="refused",
        reason=Reason.POD_REFUSED,
        message=f"{ref}: {_unfit(text, misfit)}",
        patience=REFUSED_SECONDS,
        seen=view.child.warning.seen,
    )


def silent_controller(view: View) -> Finding | None:
    """Nobody makes the pods, and nobody says why."""
    quiet = view.case.age(view.child.created) >= QUIET_SECONDS and not view.child.blind
    if view.pods or view.collected or view.child.state != "Active" or not quiet:
        return None
    ref = view.child.ref
    message = (
        f"no pod is made for {ref.kind} {ref.name}; {_CONTROLLERS.get(ref.kind, 'its controller')} is silent"
    )
    return Finding(
        kind="controller", reason=Reason.BACKEND_UNAVAILABLE, message=message, patience=SILENT_SECONDS
    )


def _shut(said: str) -> str:
    """The server's words; of a quota that lets nothing in, with whose move it is."""
    return (
        f"{said}: nothing starts until whoever runs the namespace raises it" if quotas.closed(said) else said
    )


def _unfit(said: str, misfit: Misfit | None) -> str:
    """The server's words with whose move it is, which is told at once."""
    if misfit is None:
        return said
    return f"{misfit.message}: {misfit.action} ({said})" if misfit.message else f"{said}; {misfit.action}"


_CONTROLLERS = {"Job": "kube-controller-manager", "PyTorchJob": "the Kubeflow training operator"}


def _stale(view: View, warning: EventWarning) -> bool:
    """Whether pods were made since, or nobody has complained for long."""
    if warning.seen is None:
        return False
    newer: Sequence[Pod] = [pod for pod in view.pods if pod.created > warning.seen]
    return bool(newer) or view.case.now - warning.seen > STALE
