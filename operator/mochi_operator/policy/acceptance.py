"""Whether a run can be worked on at all, and what is decided where its spec leaves a choice."""

from __future__ import annotations

from mochi_api import layout, resolved
from mochi_api.outcomes import ROWS, Reason
from mochi_api.spec import FineTuneSpec
from mochi_api.status import Artifacts, Resolved
from mochi_operator import conditions
from mochi_operator.plan import Draft
from mochi_operator.policy import ending
from mochi_operator.snapshot import Obstacle, Snapshot

RETRY_SECONDS = 15.0


def first_visit(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: all conditions exist from the first visit on."""
    if draft.status.conditions:
        return draft
    unknown = conditions.initial(snapshot.run.generation, snapshot.now)
    status = draft.status.model_copy(update={"conditions": unknown})
    status = conditions.put(
        status, "Reconciling", "True", conditions.PENDING, "not accepted yet", snapshot.now
    )
    return draft.with_status(conditions=status.conditions)


def readable(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: a spec that cannot be read is said so and left alone, with whatever runs for it, until it changes."""
    if snapshot.spec is not None:
        return draft
    return _refused(snapshot, draft, Reason.INVALID_SPEC, snapshot.spec_problem, stalled=True).settle()


def leftovers(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: children of a deleted run of the same name go first."""
    taken = tuple(item.ref for item in snapshot.obstacles if item.reason == "Leftover")
    stale = (*snapshot.leftovers, *taken)
    return draft.deleting(*stale).waking(2).settle() if stale else draft


def obstacles(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: a child that could not be created is a condition, not an exception."""
    for item in snapshot.obstacles:
        message = f"{item.ref.kind} {item.ref.name}: {item.message}"
        if item.reason == "Refused":
            return ending.failed(snapshot, draft, Reason.POD_REFUSED, message)
        return _blocked(snapshot, draft, item, message)
    return draft


def served(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: without the kind of the training object nothing is started, however far training is away."""
    if snapshot.backend_served or conditions.has_reason(
        draft.status, "TrainingRunning", conditions.COMPLETED
    ):
        return draft
    message = "the cluster does not know the kind PyTorchJob (kubeflow.org/v1)"
    draft = _refused(snapshot, draft, Reason.BACKEND_UNAVAILABLE, message, stalled=False)
    return draft.waking(RETRY_SECONDS).settle()


def accepted(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: the run is taken on; open choices are made once and kept, whatever a later operator would choose."""
    spec = snapshot.spec
    assert spec is not None, "an unreadable spec was dealt with before"
    if draft.status.resolved is None:
        run_uri = layout.run_root(spec.storage.output_uri, snapshot.run.uid)
        draft = draft.with_status(
            resolved=_resolved(spec, snapshot.default_image),
            artifacts=Artifacts().model_copy(update={"run_uri": run_uri}),
        ).normal("Accepted", f"results go to {run_uri}")
    status = conditions.put(draft.status, "Accepted", "True", "Accepted", "", snapshot.now)
    status = conditions.put(status, "Reconciling", "False", "Accepted", "", snapshot.now)
    status = conditions.put(status, "Stalled", "False", "Accepted", "", snapshot.now)
    return draft.with_status(conditions=status.conditions)


def deadline(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: the run as a whole takes no longer than it may."""
    assert snapshot.spec is not None, "an unreadable spec was dealt with before"
    limit = snapshot.spec.run_policy.active_deadline_seconds
    if not limit:
        return draft
    left = limit - (snapshot.now - snapshot.run.created).total_seconds()
    if left > 0:
        return draft.waking(left)
    message = f"the run took longer than runPolicy.activeDeadlineSeconds = {limit}"
    return ending.failed(snapshot, draft, Reason.DEADLINE_EXCEEDED, message)


def _resolved(spec: FineTuneSpec, default_image: str) -> Resolved:
    training = resolved.training(spec)
    assert training.warmup_steps is not None, "resolved.training fills it in"
    assert training.global_batch_size is not None, "resolved.training fills it in"
    return Resolved(
        replicas=resolved.replicas(spec),
        gpus_per_pod=resolved.gpus(spec).training,
        image=spec.workers.image or default_image,
        warmup_steps=training.warmup_steps,
        global_batch_size=training.global_batch_size,
    )


def _blocked(snapshot: Snapshot, draft: Draft, item: Obstacle, message: str) -> Draft:
    """A name that is taken, or a refusal that may pass; tried again."""
    reason = Reason.NAME_CONFLICT if item.reason == "Taken" else Reason.POD_REFUSED
    draft = _refused(snapshot, draft, reason, message, stalled=item.reason == "Taken")
    return draft.waking(RETRY_SECONDS).settle()


def _refused(snapshot: Snapshot, draft: Draft, reason: Reason, message: str, *, stalled: bool) -> Draft:
    """Accepted is False; said once as an Event, not at every visit."""
    news = not conditions.has_reason(draft.status, "Accepted", reason)
    advice = f"{message}; {ROWS[reason].action}"
    now = snapshot.now
    status = conditions.put(draft.status, "Accepted", "False", reason, advice, now)
    status = conditions.put(status, "Stalled", "True" if stalled else "False", reason, message, now)
    status = conditions.put(status, "Reconciling", "False" if stalled else "True", reason, message, now)
    draft = draft.with_status(conditions=status.conditions)
    return draft.warning(reason, advice) if news else draft
