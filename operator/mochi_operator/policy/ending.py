"""How a run ends, and what is left to do once it has."""

from __future__ import annotations

from mochi_api.outcomes import ROWS, Reason
from mochi_operator import conditions
from mochi_operator.plan import Draft
from mochi_operator.snapshot import Child, Snapshot

LOG_SECONDS = 60
"""A child whose pod has just failed may end by itself for so long, which keeps the pod's log readable."""


def failed(snapshot: Snapshot, draft: Draft, reason: Reason, message: str) -> Draft:
    """The run has failed for good; what still runs is deleted once the status says so."""
    now, advice = snapshot.now, f"{message}; {ROWS[reason].action}"
    status = conditions.put(draft.status, "Failed", "True", reason, advice, now)
    status = conditions.put(status, "Succeeded", "False", reason, message, now)
    status = conditions.put(status, "Stalled", "True", reason, message, now)
    status = conditions.put(status, "Reconciling", "False", reason, "", now)
    if not conditions.has_reason(status, "TrainingRunning", conditions.COMPLETED):
        status = conditions.put(status, "TrainingRunning", "False", reason, message, now)
    draft = draft.with_status(**_training_over(draft)).warning("Failed", f"{reason}: {advice}")
    conditions_only = {"conditions": status.conditions}
    return _clean(snapshot, draft.with_status(**conditions_only)).settle()


def succeeded(snapshot: Snapshot, draft: Draft) -> Draft:
    """The run is done; everything it made is named in the status."""
    made = draft.status.artifacts
    uri = (made.lora_uri or made.weights_uri) if made is not None else ""
    status = conditions.put(draft.status, "Succeeded", "True", conditions.COMPLETED, uri, snapshot.now)
    status = conditions.put(status, "Failed", "False", conditions.COMPLETED, "", snapshot.now)
    draft = draft.with_status(conditions=status.conditions)
    return draft.normal("Succeeded", f"finished; the result is {uri}").settle()


def over(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: a run that has ended stays so; what a killed operator left running is deleted."""
    if not (conditions.holds(draft.status, "Failed") or conditions.holds(draft.status, "Succeeded")):
        return draft
    return _clean(snapshot, draft).settle()


def _training_over(draft: Draft) -> dict[str, object]:
    training = draft.status.training
    if training is None:
        return {}
    return {"training": training.model_copy(update={"replicas_running": 0, "next_attempt_time": None})}


def _clean(snapshot: Snapshot, draft: Draft) -> Draft:
    for child in (*snapshot.jobs.values(), *snapshot.attempts.values()):
        if child.state != "Active" or child.deleting:
            continue
        draft = draft.waking(LOG_SECONDS / 6) if _ends_itself(snapshot, child) else draft.deleting(child.ref)
    return draft


def _ends_itself(snapshot: Snapshot, child: Child) -> bool:
    ends = [pod.finished for pod in snapshot.pods_of(child) if pod.exit_code]
    return any(end is not None and (snapshot.now - end).total_seconds() < LOG_SECONDS for end in ends)
