"""How a run ends, and what is left to do once it has."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from mochi_api.outcomes import Reason
from mochi_api.runfile import PREVIEW
from mochi_operator.conditions import COMPLETED
from mochi_operator.plan import Draft
from mochi_operator.snapshot import Case, Child, Family, Snapshot
from mochi_operator.state import Attempt, Step

LOG_SECONDS = 60
"""A child whose pod has just failed may end by itself for so long, which keeps the pod's log readable."""


def failed(case: Case, draft: Draft, reason: Reason, message: str, action: str) -> Draft:
    """The run has failed for good; what still runs is deleted once the status says so."""
    advice = f"{message}; {action}"
    draft = draft.set_condition("Failed", "True", reason, advice)
    draft = draft.set_condition("Succeeded", "False", reason, message)
    draft = draft.set_condition("Stalled", "True", reason, message)
    draft = draft.set_condition("Reconciling", "False", reason)
    if not draft.state.steps["train"].completed:
        draft = draft.set_condition("TrainingRunning", "False", reason, message)
    draft = _closed(draft.with_state(replace(draft.state, result="Failed")), reason, message)
    unseen = f"deleted by the operator, because the run failed ({reason})"
    draft = _closed(adopted(case.family, draft), Reason.BACKEND_DELETED, unseen)
    draft = draft.warning("Failed", f"{reason}: {advice}")
    return _cleaned(case.family, draft).settle()


def succeeded(_case: Case, draft: Draft) -> Draft:
    """The run is done; everything it made is named in the status."""
    made = draft.state.artifacts
    uri = (made.lora_uri or made.weights_uri) if made is not None else ""
    sample = draft.state.steps["sample"]
    without = "" if sample.completed else "; the samples could not be made"
    draft = draft.with_state(replace(draft.state, result="Succeeded"))
    draft = draft.set_condition("Succeeded", "True", COMPLETED, f"{uri}{without}")
    draft = draft.set_condition("Failed", "False", COMPLETED)
    return draft.normal("Succeeded", f"finished; the result is {uri}{without}").settle()


def finished(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: a run that has ended stays so; what a killed operator left running is deleted."""
    if not draft.state.result:
        return draft
    return _cleaned(snapshot.family, draft).settle()


def adopted(family: Family, draft: Draft) -> Draft:
    """Children that were made though no status could be written since are attempts too, and belong into the history."""
    for child in sorted(family.children, key=lambda child: child.attempt):
        step = next((step for step in draft.state.steps.values() if step.name == child.step), None)
        if step is not None and child.attempt > step.number:
            begun = Attempt(number=child.attempt, child=child.ref.name, started=child.created)
            draft = draft.with_step(step.with_new(begun))
    return draft


def _closed(draft: Draft, reason: Reason, message: str) -> Draft:
    """No attempt runs, and no step waits for anything any more."""
    for step in draft.state.steps.values():
        current = step.current
        if current is not None and step.name == PREVIEW:
            # Not for what the run has failed of.
            step = taken_away(step, current, "the run has failed", draft.now)
        elif current is not None:
            step = step.with_newest(replace(current, ended=draft.now, reason=reason, message=message))
        if step.trouble is not None and not step.attempts:
            items = replace(step.items, message=step.trouble.message)
            step = replace(step, given_up=True, items=items)
        draft = draft.with_step(replace(step, trouble=None, not_before=None))
    numbers = replace(draft.state.numbers, replicas_running=0)
    return draft.with_state(replace(draft.state, numbers=numbers))


def taken_away(step: Step, attempt: Attempt, why: str, now: datetime) -> Step:
    """The step with an attempt that the operator itself ends, which costs it nothing."""
    ended = replace(attempt, ended=now, reason=Reason.PREEMPTED, message=why)
    return replace(step.with_newest(ended), trouble=None, not_before=None)


def _cleaned(family: Family, draft: Draft) -> Draft:
    for child in family.children:
        if child.state != "Active" or child.deleting:
            continue
        left = _seconds_of_its_log(family, child, draft)
        draft = draft.waking(left) if left > 0 else draft.deleting(child.ref)
    return draft


def _seconds_of_its_log(family: Family, child: Child, draft: Draft) -> float:
    """How long a child that is about to end is left, for the log's sake; 0 when a pod of it runs on."""
    pods = family.pods_of(child)
    ends = [pod.main.finished for pod in pods if pod.main.finished is not None]
    if not ends or not all(pod.ended for pod in pods):
        return 0.0
    return LOG_SECONDS - (draft.now - max(ends)).total_seconds()
