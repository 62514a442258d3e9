"""The attempts of the training: one object each, never two at a time, and their history in the status."""

from __future__ import annotations

from datetime import timedelta

from mochi_api.outcomes import ROWS
from mochi_api.spec import RetryBackoffSpec
from mochi_api.status import Attempt, BackendRef, TrainingStatus
from mochi_operator import conditions, names
from mochi_operator.plan import Draft, Start
from mochi_operator.policy import ending
from mochi_operator.policy.verdicts import Verdict
from mochi_operator.snapshot import Child, ObjectRef, Snapshot
from mochi_operator.timestamps import parse, render

KEPT = 10
GOING_SECONDS = 2.0


def current(draft: Draft) -> Attempt | None:
    """The attempt that runs, according to the status."""
    newest = next(iter(draft.status.attempts), None)
    return newest if newest is not None and not newest.reason else None


def backoff_seconds(policy: RetryBackoffSpec, failures: int) -> int:
    """The wait after so many failed attempts: doubled each time, bounded."""
    return min(policy.max_seconds, policy.initial_seconds << min(failures - 1, 30))


def opened(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: when no attempt runs, clear away what is left of the last one, wait, and start or adopt the next."""
    if current(draft) is not None or conditions.has_reason(
        draft.status, "TrainingRunning", conditions.COMPLETED
    ):
        return draft
    last = draft.status.attempts[0].number if draft.status.attempts else 0
    remains = [child for number, child in snapshot.attempts.items() if number <= last]
    if remains:
        refs = [child.ref for child in remains if not child.deleting]
        return draft.deleting(*refs).waking(GOING_SECONDS).settle()
    wait = _wait_seconds(snapshot, draft, last)
    if wait > 0:
        return draft.waking(wait).settle()
    newer = max((number for number in snapshot.attempts if number > last), default=None)
    if newer is None:
        return _open(snapshot, draft.starting(Start(stage="train", attempt=last + 1)), last + 1).settle()
    return _open(snapshot, draft, newer)


def lonely(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: beside the attempt that runs there is no other."""
    attempt = current(draft)
    others: list[ObjectRef] = [
        child.ref
        for number, child in snapshot.attempts.items()
        if attempt is not None and number != attempt.number and not child.deleting
    ]
    return draft.deleting(*others) if others else draft


def closed(snapshot: Snapshot, draft: Draft, verdict: Verdict, child: Child | None) -> Draft:
    """The attempt has failed: into the history with it, then a new one or the end.

    The failed object is deleted only after the status tells why, or a kill in between would lose the reason.
    """
    attempt = current(draft)
    assert snapshot.spec is not None, "an unreadable spec was dealt with before"
    assert attempt is not None, "only the attempt that runs can fail"
    draft = draft.with_status(
        attempts=[_ended(snapshot, draft, attempt, verdict), *draft.status.attempts[1:]]
    )
    policy, row = snapshot.spec.run_policy, ROWS[verdict.reason]
    text = f"attempt {attempt.number}: {verdict.message}"
    if not row.retryable:
        return ending.failed(snapshot, draft, verdict.reason, text)
    if attempt.number > policy.backoff_limit:
        text = f"{text}; no attempt is left (runPolicy.backoffLimit = {policy.backoff_limit})"
        return ending.failed(snapshot, draft, verdict.reason, text)
    wait = backoff_seconds(policy.retry_backoff, attempt.number)
    training = (draft.status.training or TrainingStatus()).model_copy(
        update={
            "next_attempt_time": render(snapshot.now + timedelta(seconds=wait)),
            "replicas_running": 0,
            "estimated_remaining_seconds": None,
        }
    )
    draft = _said(snapshot, draft.with_status(training=training), "False", conditions.RETRYING, text)
    if child is not None and not child.deleting:
        draft = draft.deleting(child.ref)
    advice = f"{verdict.reason}: {text}; {row.action}; the next attempt starts after {wait} s"
    return draft.warning("AttemptFailed", advice).waking(min(GOING_SECONDS, wait)).settle()


def _ended(snapshot: Snapshot, draft: Draft, attempt: Attempt, verdict: Verdict) -> Attempt:
    seen = draft.status.training.step if draft.status.training is not None else 0
    return attempt.model_copy(
        update={
            "reason": verdict.reason.value,
            "message": verdict.message[: conditions.MESSAGE_LIMIT],
            "exit_code": verdict.exit_code,
            "last_step": seen if verdict.last_step is None else verdict.last_step,
            "end_time": render(snapshot.now),
        }
    )


def _open(snapshot: Snapshot, draft: Draft, number: int) -> Draft:
    child = snapshot.attempts.get(number)
    job = names.attempt_job(snapshot.run.name, number)
    assert snapshot.spec is not None, "an unreadable spec was dealt with before"
    before = draft.status.training or TrainingStatus()
    training = before.model_copy(
        update={
            "backend_ref": BackendRef(kind="PyTorchJob", name=job),
            "attempt": number,
            "total_steps": snapshot.spec.training.steps,
            "replicas_running": 0,
            "next_attempt_time": None,
        }
    )
    begun = Attempt(
        number=number,
        backend_name=job,
        start_time=render(child.created if child is not None else snapshot.now),
    )
    draft = draft.with_status(training=training, attempts=[begun, *draft.status.attempts][:KEPT])
    draft = _said(snapshot, draft, "False", conditions.STARTING, f"attempt {number}")
    return draft.normal("AttemptStarted", f"attempt {number}: PyTorchJob {job} created").waking(GOING_SECONDS)


def _said(snapshot: Snapshot, draft: Draft, truth: conditions.Truth, reason: str, message: str) -> Draft:
    status = conditions.put(draft.status, "TrainingRunning", truth, reason, message, snapshot.now)
    status = conditions.put(
        status, "TrainingHealthy", "Unknown", reason, "no step of this attempt is known yet", snapshot.now
    )
    return draft.with_status(conditions=status.conditions)


def _wait_seconds(snapshot: Snapshot, draft: Draft, last: int) -> float:
    """Until the next attempt may start: the backoff is over, and the last attempt's pods are gone."""
    due = parse(draft.status.training.next_attempt_time) if draft.status.training is not None else None
    pause = 0.0 if due is None else (due - snapshot.now).total_seconds()
    return max(pause, _pods_seconds(snapshot, draft, last))


def _pods_seconds(snapshot: Snapshot, draft: Draft, last: int) -> float:
    """Pods on a lost node never go; others are waited for as long as they may take to save a checkpoint."""
    old = [pod for pod in snapshot.pods if pod.stage == "train" and pod.attempt == last]
    if all(pod.exit_code is not None for pod in old):
        return 0.0
    assert snapshot.spec is not None, "an unreadable spec was dealt with before"
    ended = parse(draft.status.attempts[0].end_time) or snapshot.now
    limit = ended + timedelta(seconds=snapshot.spec.run_policy.grace_period_seconds + 30)
    return GOING_SECONDS if snapshot.now < limit else 0.0
