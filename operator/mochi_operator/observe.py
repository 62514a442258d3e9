"""Raw Kubernetes objects read into the types of `snapshot`; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from mochi_api import identity
from mochi_api.rules import violations
from mochi_api.runfile import explain
from mochi_api.spec import FineTuneSpec
from mochi_api.status import FineTuneStatus
from mochi_operator import names
from mochi_operator.snapshot import Child, ObjectRef, Pod, Run
from mochi_operator.timestamps import parse

Raw = Mapping[str, Any]

REPLICA_INDEX = "training.kubeflow.org/replica-index"


def run(raw: Raw) -> Run:
    """Identity of a MochiFineTune."""
    meta = raw["metadata"]
    return Run(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 1),
        resource_version=meta["resourceVersion"],
        created=_moment(meta),
        deleting="deletionTimestamp" in meta,
    )


def spec(raw: Raw) -> tuple[FineTuneSpec | None, str]:
    """The spec, or None and what is wrong with it."""
    if (problem := names.problem(raw["metadata"]["name"])) is not None:
        return None, problem
    try:
        parsed = FineTuneSpec.model_validate(raw.get("spec") or {})
    except ValidationError as error:
        return None, explain(error)
    broken = violations(parsed)
    return (None, "; ".join(broken)) if broken else (parsed, "")


def status(raw: Raw) -> FineTuneStatus:
    """The status; top-level fields that another version of the operator wrote differently count as absent."""
    written = raw.get("status") or {}
    try:
        return FineTuneStatus.model_validate(written)
    except ValidationError as error:
        unreadable = {problem["loc"][0] for problem in error.errors()}
        return FineTuneStatus.model_validate({key: written[key] for key in written if key not in unreadable})


def reference(raw: Raw) -> ObjectRef:
    """Which object this is."""
    return ObjectRef(kind=raw["kind"], name=raw["metadata"]["name"], uid=raw["metadata"]["uid"])


def owner_uid(raw: Raw) -> str:
    """Uid of the controlling owner, empty when there is none."""
    return str(_owner(raw).get("uid", ""))


def is_leftover(raw: Raw, owner: Run) -> bool:
    """Whether a deleted run of the same name owned this object."""
    ref = _owner(raw)
    same_name = ref.get("kind") == identity.KIND and ref.get("name") == owner.name
    return same_name and ref.get("uid") != owner.uid


def child(raw: Raw) -> Child:
    """A Job or a training object without its state."""
    meta, body = raw["metadata"], raw.get("spec") or {}
    labels = meta.get("labels") or {}
    suspended = body.get("suspend") or (body.get("runPolicy") or {}).get("suspend") or False
    conditions = _conditions(raw)
    done = conditions.get("Failed") or conditions.get("Complete") or conditions.get("Succeeded")
    return Child(
        ref=reference(raw),
        stage=labels.get(identity.LABEL_STAGE, ""),
        attempt=_number(labels.get(identity.LABEL_ATTEMPT)),
        created=_moment(meta),
        deleting="deletionTimestamp" in meta,
        suspended=suspended,
        state="Failed" if "Failed" in conditions else "Succeeded" if done else "Active",
        reason=(done or {}).get("reason", ""),
        message=(done or {}).get("message", ""),
        started=parse((raw.get("status") or {}).get("startTime")),
        finished=parse((done or {}).get("lastTransitionTime")),
    )


def pod(raw: Raw) -> Pod:
    """A pod with the state of its one container."""
    meta, state = raw["metadata"], raw.get("status") or {}
    labels = meta.get("labels") or {}
    conditions = {item["type"]: item for item in state.get("conditions") or []}
    scheduled, target = conditions.get("PodScheduled", {}), conditions.get("DisruptionTarget", {})
    container = (state.get("containerStatuses") or [{}])[0].get("state") or {}
    waiting, running = container.get("waiting") or {}, container.get("running") or {}
    ended = container.get("terminated") or {}
    disrupted = target.get("status") == "True"
    return Pod(
        name=meta["name"],
        owner_uid=owner_uid(raw),
        stage=labels.get(identity.LABEL_STAGE, ""),
        attempt=_number(labels.get(identity.LABEL_ATTEMPT)),
        rank=_number(labels.get(REPLICA_INDEX)),
        created=_moment(meta),
        deleting="deletionTimestamp" in meta,
        phase=state.get("phase", "Pending"),
        ip=state.get("podIP", ""),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        message=state.get("message", ""),
        disruption=target.get("reason", "") if disrupted else "",
        disruption_message=target.get("message", "") if disrupted else "",
        started=parse(running.get("startedAt") or ended.get("startedAt")),
        finished=parse(ended.get("finishedAt")),
        exit_code=ended.get("exitCode"),
        terminated_reason=ended.get("reason", ""),
        termination_message=ended.get("message", ""),
    )


def newest_warning(events: Iterable[Raw], child: str) -> str:
    """Message of the newest Warning that says why a controller could make no pod of `child`.

    The random end of the pod's name is cut off, or the same refusal would read differently at every try.
    """
    found = [event for event in events if str(event.get("reason", "")).startswith("FailedCreate")]
    found.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    if not found:
        return ""
    return re.sub(rf'"{re.escape(child)}-[a-z0-9]{{5}}"', f'"{child}"', str(found[-1].get("message", "")))


def _conditions(raw: Raw) -> dict[str, Raw]:
    found = (raw.get("status") or {}).get("conditions") or []
    return {item["type"]: item for item in found if item.get("status") == "True"}


def _owner(raw: Raw) -> Raw:
    owners = raw["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def _moment(meta: Raw) -> datetime:
    moment = parse(meta.get("creationTimestamp"))
    assert moment is not None, "the API server sets creationTimestamp on every object"
    return moment


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
