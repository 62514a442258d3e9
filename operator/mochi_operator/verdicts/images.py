"""Containers that cannot start: image, Secret, ConfigMap, claim, security; ours and those that others injected."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mochi_api.outcomes import Reason
from mochi_operator import names
from mochi_operator.snapshot import Container, Pod
from mochi_operator.verdicts.finding import Finding, View

IMAGE_SECONDS = 180.0
"""An image may fail to be pulled for so long, counted from the first error; registries have short outages."""
OBJECT_SECONDS = 60.0
"""A missing Secret, ConfigMap or claim may still be on its way for so long."""
CREATE_SECONDS = 180.0
STARTING_SECONDS = 60.0
"""A pod with a node that has not started for so long is worth a word; large images take minutes."""

_IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
_CREATE_REASONS = (
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
)
_MISSING = re.compile(r"""(?:secret|configmap|persistentvolumeclaim) "[^"]+" not found|couldn't find key""")


def cannot_start(view: View) -> Finding | None:
    """Why a container of one of the pods does not start."""
    found = (_waiting(pod, item) for pod, item in _containers(view))
    return next((finding for finding in found if finding is not None), None)


def claim_missing(view: View) -> Finding | None:
    """The scheduler misses a claim that the pod mounts."""
    for pod in view.pods:
        if _MISSING.search(pod.unschedulable) is not None:
            message = f"{pod.name}: {pod.unschedulable}"
            return Finding(
                kind="object", reason=Reason.MISSING_OBJECT, message=message, patience=OBJECT_SECONDS
            )
    return None


def not_starting(view: View) -> Finding | None:
    """A pod has a node and does not start: a volume, a sandbox, a large image; its kubelet says so in Events only."""
    for pod in view.pods:
        if not pod.starting or view.case.age(pod.placed or pod.created) < STARTING_SECONDS:
            continue
        said = pod.warning.message if pod.warning is not None else "its containers are being made"
        message = f"{pod.name} does not start on {pod.node}: {said}"
        if names.run_config(view.attempt.child) in said and "not found" in said:
            return Finding(
                kind="object", reason=Reason.BACKEND_DELETED, message=message, patience=OBJECT_SECONDS
            )
        if _MISSING.search(said) is not None:
            return Finding(
                kind="object", reason=Reason.MISSING_OBJECT, message=message, patience=OBJECT_SECONDS
            )
        return Finding(kind="starting", message=message)
    return None


def _containers(view: View) -> Iterator[tuple[Pod, Container]]:
    """Containers of the pods in which ours has not started; a sidecar that fails later is no matter of ours."""
    for pod in view.pods:
        if pod.main.started is None and not pod.ended and pod.gone_by is None:
            yield from ((pod, item) for item in (pod.main, *pod.foreign))


def _waiting(pod: Pod, item: Container) -> Finding | None:
    whose = "" if item is pod.main else f"the container {item.name}, which is not ours: "
    text = f"{pod.name}: {whose}{item.waiting_message or item.waiting_reason}"
    if item.waiting_reason in _IMAGE_REASONS:
        return Finding(kind="image", reason=Reason.IMAGE_UNAVAILABLE, message=text, patience=IMAGE_SECONDS)
    if item.waiting_reason == "CreateContainerConfigError":
        known = _MISSING.search(item.waiting_message) is not None
        reason = Reason.MISSING_OBJECT if known else Reason.POD_REFUSED
        return Finding(kind="object", reason=reason, message=text, patience=OBJECT_SECONDS)
    if item.waiting_reason in _CREATE_REASONS:
        return Finding(kind="create", reason=Reason.POD_REFUSED, message=text, patience=CREATE_SECONDS)
    return None
