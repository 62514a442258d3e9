"""One attempt of the training while it runs: its failures, its progress and its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mochi_api.outcomes import Outcome, Reason, TrainingResult
from mochi_api.status import Artifacts, Checkpoint, Checkpoints, TrainingStatus
from mochi_operator import conditions
from mochi_operator.plan import Draft
from mochi_operator.policy import attempts, health, meter, verdicts
from mochi_operator.policy.verdicts import Verdict
from mochi_operator.snapshot import Child, Pod, Snapshot
from mochi_operator.timestamps import render

WATCH_SECONDS = 10.0
POLL_SECONDS = 5.0


def training(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: the attempt that runs; settled until the training has left its result."""
    attempt = attempts.current(draft)
    if attempt is None:
        return draft
    child = snapshot.attempts.get(attempt.number)
    if child is None or child.deleting:
        message = f"PyTorchJob {attempt.backend_name} was deleted while it ran"
        return attempts.closed(
            snapshot, draft, Verdict(reason=Reason.BACKEND_DELETED, message=message), child
        )
    if child.state == "Succeeded":
        return _finished(snapshot, draft, child)
    verdict = next((found for check in CHECKS if (found := check(snapshot, child)) is not None), None)
    if verdict is not None:
        return attempts.closed(snapshot, draft, verdict, child)
    return _going(snapshot, draft, child)


def pods_failed(snapshot: Snapshot, child: Child) -> Verdict | None:
    """One rank that fails ends the attempt, though the others may run on and wait for it."""
    return verdicts.cause(snapshot.pods_of(child))


def object_failed(_snapshot: Snapshot, child: Child) -> Verdict | None:
    """The training object says that it failed, but no failed pod is there to say why.

    Failed pods are kept (cleanPodPolicy Running), so the one that failed was deleted or evicted.
    """
    if child.state != "Failed":
        return None
    message = f"{child.message.rstrip('.')}, and its pod is gone: it was deleted or evicted"
    return Verdict(reason=Reason.PREEMPTED, message=message)


def pods_stuck(snapshot: Snapshot, child: Child) -> Verdict | None:
    """A pod cannot start: image, Secret, claim."""
    return verdicts.stuck(snapshot.pods_of(child), snapshot.now)


def pods_missing(snapshot: Snapshot, child: Child) -> Verdict | None:
    """Pods are refused, or nobody makes them."""
    return verdicts.podless(child, snapshot.pods_of(child), _replicas(snapshot), snapshot.now)


def pods_late(snapshot: Snapshot, child: Child) -> Verdict | None:
    """A pod has waited too long to run."""
    assert snapshot.spec is not None, "an unreadable spec was dealt with before"
    limit = snapshot.spec.run_policy.pre_running_deadline_seconds
    return verdicts.late(snapshot.pods_of(child), limit, snapshot.now)


def stalled(snapshot: Snapshot, child: Child) -> Verdict | None:
    """No step for too long."""
    return health.stalled(snapshot, snapshot.pods_of(child))


CHECKS: Sequence[Callable[[Snapshot, Child], Verdict | None]] = (
    pods_failed,
    object_failed,
    pods_stuck,
    pods_missing,
    pods_late,
    stalled,
)


def _replicas(snapshot: Snapshot) -> int:
    return snapshot.status.resolved.replicas if snapshot.status.resolved is not None else 1


def _going(snapshot: Snapshot, draft: Draft, child: Child) -> Draft:
    pods = snapshot.pods_of(child)
    running = sum(pod.running for pod in pods)
    up = running + sum(pod.exit_code == 0 for pod in pods)
    before = draft.status.training or TrainingStatus()
    draft = draft.with_status(training=before.model_copy(update={"replicas_running": running}))
    if up >= _replicas(snapshot):
        draft = _said(snapshot, draft, "True", conditions.RUNNING, f"attempt {child.attempt}")
    elif conditions.holds(draft.status, "TrainingRunning"):
        draft = _said(snapshot, draft, "True", conditions.RUNNING, _missing(pods, child, up, snapshot))
    else:
        draft = _said(snapshot, draft, "False", conditions.STARTING, _missing(pods, child, up, snapshot))
    draft = health.told(snapshot, meter.read(snapshot, draft))
    poll = min(POLL_SECONDS, snapshot.progress_interval) if running else WATCH_SECONDS
    return draft.waking(poll).settle()


def _missing(pods: Sequence[Pod], child: Child, up: int, snapshot: Snapshot) -> str:
    hint = verdicts.waiting(child, pods)
    text = f"attempt {child.attempt}: {up} of {_replicas(snapshot)} pods run"
    return f"{text}; {hint}" if hint else text


def _finished(snapshot: Snapshot, draft: Draft, child: Child) -> Draft:
    found = next((verdicts.outcome(pod) for pod in snapshot.pods_of(child) if pod.rank == 0), None)
    if found is None or found.training_result is None or not found.training_result.artifact_uri:
        message = f"PyTorchJob {child.ref.name} succeeded, but rank 0 left no readable result"
        verdict = Verdict(reason=Reason.ARTIFACTS_MISSING, message=message)
        return attempts.closed(snapshot, draft, verdict, child)
    return _recorded(snapshot, draft, child, found, found.training_result)


def _recorded(
    snapshot: Snapshot, draft: Draft, child: Child, outcome: Outcome, result: TrainingResult
) -> Draft:
    attempt = attempts.current(draft)
    assert attempt is not None, "the caller looked"
    ended = render(child.finished or snapshot.now)
    closed = attempt.model_copy(
        update={
            "reason": Reason.COMPLETED.value,
            "message": outcome.message[: conditions.MESSAGE_LIMIT],
            "exit_code": 0,
            "last_step": result.final_step,
            "end_time": ended,
        }
    )
    draft = draft.with_status(
        attempts=[closed, *draft.status.attempts[1:]],
        training=meter.final(draft.status.training or TrainingStatus(), result, ended),
        artifacts=_artifacts(snapshot, draft, result),
    )
    if result.checkpoint_uri:
        latest = Checkpoint(step=result.final_step, uri=result.checkpoint_uri, time=ended)
        draft = draft.with_status(checkpoints=Checkpoints(latest=latest))
        draft = meter.checkpoint_said(snapshot, draft, latest)
    draft = _said(snapshot, draft, "False", conditions.COMPLETED, f"{result.final_step} steps")
    status = conditions.put(draft.status, "TrainingHealthy", "True", conditions.COMPLETED, "", snapshot.now)
    draft = draft.with_status(conditions=status.conditions)
    return draft.normal("TrainingSucceeded", f"attempt {attempt.number}: {result.artifact_uri}")


def _artifacts(snapshot: Snapshot, draft: Draft, result: TrainingResult) -> Artifacts:
    assert snapshot.spec is not None, "an unreadable spec was dealt with before"
    place = "lora_uri" if snapshot.spec.mode == "lora" else "weights_uri"
    return (draft.status.artifacts or Artifacts()).model_copy(
        update={place: result.artifact_uri, "sha256": result.sha256, "size_bytes": result.size_bytes}
    )


def _said(snapshot: Snapshot, draft: Draft, truth: conditions.Truth, reason: str, message: str) -> Draft:
    status = conditions.put(draft.status, "TrainingRunning", truth, reason, message, snapshot.now)
    return draft.with_status(conditions=status.conditions)
