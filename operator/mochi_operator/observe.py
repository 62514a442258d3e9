"""Raw Kubernetes objects read into the types of `snapshot`; pure, and lenient: what is missing or odd counts as absent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from mochi_api import identity
from mochi_api.accepted import accepted as as_accepted
from mochi_api.prediction.admission import memory_problem
from mochi_api.rules import name_problem, violations
from mochi_api.runfile import explain
from mochi_api.spec import FineTuneSpec
from mochi_operator.snapshot import Child, ChildState, Container, EventWarning, ObjectRef, Pod, Run
from mochi_operator.timestamps import EPOCH, parse

Raw = Mapping[str, Any]

REPLICA_INDEX = "training.kubeflow.org/replica-index"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
"""Annotation of a pod of an Indexed Job; a label of that name came with Kubernetes 1.28 only."""
OURS = (identity.TRAINING_CONTAINER, identity.STAGE_CONTAINER)


def run(raw: Raw) -> Run:
    """Identity of a MochiFineTune, and what its annotations ask for."""
    meta = raw["metadata"]
    return Run(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 1),
        resource_version=meta["resourceVersion"],
        created=_created(meta),
        deleting="deletionTimestamp" in meta,
        sample_now=str((meta.get("annotations") or {}).get(identity.ANNOTATION_SAMPLE_NOW, ""))[
            : identity.SAMPLE_NOW_LENGTH
        ],
    )


def spec(raw: Raw, *, accepted: bool) -> tuple[FineTuneSpec | None, str]:
    """The spec, or None and what is wrong with it, or which GPU it cannot fit into; fields of a newer version are ignored.

    A run that has been accepted is not held to the rules again: a later version may have more of them.
    """
    told = raw.get("spec") or {}
    try:
        if accepted:
            return as_accepted(FineTuneSpec, told), ""
        parsed = FineTuneSpec.model_validate(told)
    except ValidationError as error:
        return None, explain(error)
    if (problem := name_problem(raw["metadata"]["name"])) is not None:
        return None, problem
    broken = "; ".join(violations(parsed)) or memory_problem(parsed) or ""
    return (None, broken) if broken else (parsed, "")


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


def is_leftover_pod(raw: Raw, owner: Run) -> bool:
    """Whether a pod belongs to a deleted run of the same name: it says so, or it is older than this run."""
    meta = raw["metadata"]
    uid = (meta.get("labels") or {}).get(identity.LABEL_UID)
    return uid != owner.uid if uid else _created(meta) < owner.created


def child(raw: Raw) -> Child:
    """A Job or a training object."""
    meta, body = raw["metadata"], raw.get("spec") or {}
    labels = meta.get("labels") or {}
    suspended = body.get("suspend") or (body.get("runPolicy") or {}).get("suspend") or False
    true = {item["type"]: item for item in _conditions(raw) if item.get("status") == "True"}
    state, done = _child_state(true)
    return Child(
        ref=reference(raw),
        step=labels.get(identity.LABEL_STAGE, ""),
        attempt=max(1, _number(labels.get(identity.LABEL_ATTEMPT))),
        created=_created(meta),
        deleting="deletionTimestamp" in meta,
        pods=_shards(body),
        succeeded=_count(raw.get("status") or {}, "succeeded"),
        first_done=_first_done(raw),
        suspended=suspended,
        state=state,
        message=str(done.get("message") or done.get("reason") or ""),
        finished=parse(done.get("lastTransitionTime")),
    )


def _first_done(raw: Raw) -> bool:
    """Whether `completedIndexes` of a Job, such as `0,3-5`, has the first."""
    told = str((raw.get("status") or {}).get("completedIndexes") or "")
    return told.partition(",")[0].partition("-")[0] == "0"


def pod(raw: Raw) -> Pod:
    """A pod with the state of our container and of those that are not ours."""
    meta, status = raw["metadata"], raw.get("status") or {}
    labels = meta.get("labels") or {}
    told = {item["type"]: item for item in _conditions(raw)}
    scheduled, target = told.get("PodScheduled", {}), told.get("DisruptionTarget", {})
    disrupted = target.get("status") == "True"
    mine = [container(item) for item in status.get("containerStatuses") or () if item.get("name") in OURS]
    foreign = [
        container(item)
        for item in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
        if item.get("name") not in OURS
    ]
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        owner_uid=owner_uid(raw),
        step=labels.get(identity.LABEL_STAGE, ""),
        attempt=max(1, _number(labels.get(identity.LABEL_ATTEMPT))),
        rank=_number(labels.get(REPLICA_INDEX) or (meta.get("annotations") or {}).get(COMPLETION_INDEX)),
        created=_created(meta),
        gone_by=parse(meta.get("deletionTimestamp")),
        node=(raw.get("spec") or {}).get("nodeName", ""),
        placed=parse(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        phase=status.get("phase", "Pending"),
        ip=status.get("podIP", ""),
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        message=status.get("message", ""),
        disruption=target.get("reason", "") if disrupted else "",
        disruption_message=target.get("message", "") if disrupted else "",
        main=next(iter(mine), Container(name="")),
        foreign=tuple(foreign),
    )


def container(raw: Raw) -> Container:
    """The state of one container."""
    state = raw.get("state") or {}
    waiting, running, ended = (state.get(word) or {} for word in ("waiting", "running", "terminated"))
    return Container(
        name=raw.get("name", ""),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        started=parse(running.get("startedAt") or ended.get("startedAt")),
        finished=parse(ended.get("finishedAt")),
        exit_code=ended.get("exitCode"),
        ended_reason=ended.get("reason", ""),
        termination_message=ended.get("message", ""),
    )


def newest_warning(events: Iterable[Raw], child: str) -> EventWarning | None:
    """The newest Warning that says why a controller could make no pod of `child`.

    The end of the pod's name, at random and with the number of a shard, is cut off, or the same refusal would read
    differently at every try.
    """
    warning = _newest(event for event in events if str(event.get("reason", "")).startswith("FailedCreate"))
    if warning is None:
        return None
    text = re.sub(rf'"{re.escape(child)}(-[0-9]+)?-[a-z0-9]{{5}}"', f'"{child}"', warning.message)
    return EventWarning(message=text, seen=warning.seen)


def newest_pod_warning(events: Iterable[Raw]) -> EventWarning | None:
    """What a kubelet cannot do for a pod that has a node: a volume, a sandbox, a network."""
    return _newest(event for event in events if event.get("reason") != "FailedScheduling")


def _newest(events: Iterable[Raw]) -> EventWarning | None:
    newest = max(events, key=lambda event: _event_time(event) or EPOCH, default=None)
    if newest is None:
        return None
    return EventWarning(message=str(newest.get("message", "")), seen=_event_time(newest))


def _event_time(event: Raw) -> datetime | None:
    series = (event.get("series") or {}).get("lastObservedTime")
    return parse(series or event.get("lastTimestamp") or event.get("eventTime"))


def _child_state(true: Mapping[str, Raw]) -> tuple[ChildState, Raw]:
    """The end of a child; `Complete` is a Job's word, `Succeeded` a PyTorchJob's."""
    if "Failed" in true:
        return "Failed", true["Failed"]
    done = true.get("Complete") or true.get("Succeeded")
    return ("Succeeded", done) if done is not None else ("Active", {})


def _shards(body: Raw) -> int:
    """Pods of a Job: its completions, where they are numbered."""
    return max(1, _count(body, "completions")) if body.get("completionMode") == "Indexed" else 1


def _count(raw: Raw, field: str) -> int:
    found = raw.get(field)
    return found if isinstance(found, int) else 0


def _conditions(raw: Raw) -> list[Raw]:
    return list((raw.get("status") or {}).get("conditions") or ())


def _owner(raw: Raw) -> Raw:
    owners = raw["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def _created(meta: Raw) -> datetime:
    return parse(meta.get("creationTimestamp")) or EPOCH


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
