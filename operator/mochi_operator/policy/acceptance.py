"""Whether a run can be worked on at all, and what is decided where its spec leaves a choice."""

from __future__ import annotations

from dataclasses import replace

from mochi_api import layout, resolved
from mochi_api.outcomes import ROWS, Reason
from mochi_api.prediction.admission import predicted_memory
from mochi_api.spec import FineTuneSpec
from mochi_api.status import Artifacts, Resolved
from mochi_operator import conditions
from mochi_operator.plan import Draft
from mochi_operator.snapshot import Case, Pod, Snapshot
from mochi_operator.verdicts.nodes import SLACK

UNACCEPTED = ("taken", "unserved")
"""Refusals of a child that speak against the run itself; all others are told where the step stands."""
RETRY_SECONDS = 15.0
GOING_SECONDS = 2.0


def first_visit(_snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: all conditions exist from the first visit on."""
    if draft.state.conditions:
        return draft.with_state(conditions.completed(draft.state, draft.now))
    draft = draft.with_state(replace(draft.state, conditions=conditions.initial(draft.now)))
    return draft.set_condition("Reconciling", "True", conditions.PENDING, "not accepted yet")


def readable(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: a spec that cannot be read is said so and left alone, with whatever runs for it, until it changes.

    A run that was accepted was readable for whoever accepted it, a newer operator most likely: it has not failed.
    """
    if snapshot.spec is not None:
        return draft
    if draft.state.resolved is None:
        return not_accepted(draft, Reason.INVALID_SPEC, snapshot.spec_problem, stalled=True).settle()
    message = (
        f"this version of the operator cannot read the spec, and leaves the run and its pods alone: "
        f"{snapshot.spec_problem}; correct that field, or bring back the version that the run was made with"
    )
    return draft.set_condition("Reconciling", "True", Reason.INVALID_SPEC, message).settle()


def leftovers(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: children and pods of a deleted run of the same name go first; its pods may take their time to save."""
    family = snapshot.family
    taken = tuple(item.ref for item in snapshot.refusals if item.cause == "leftover")
    stale = (*family.leftovers, *taken)
    staying = [pod for pod in family.leftover_pods if not pod.ended and not _overdue(pod, draft)]
    if not stale and not staying:
        return draft
    if draft.state.resolved is None:
        names = ", ".join([*(ref.name for ref in stale), *(pod.name for pod in staying)][:4])
        message = f"a deleted run of this name still has {names}: they go first"
        draft = draft.set_condition("Accepted", "Unknown", "Leftover", message)
    return draft.deleting(*stale).waking(GOING_SECONDS).settle()


def served(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: without the kind of the training object nothing is started, however far training is away."""
    if snapshot.family.backend_served or draft.state.steps["train"].over:
        return draft
    message = "the cluster does not know the kind PyTorchJob (kubeflow.org/v1)"
    draft = not_accepted(draft, Reason.BACKEND_UNAVAILABLE, message, stalled=False)
    return draft.waking(RETRY_SECONDS).settle()


def accepted(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: the run is taken on; open choices are made once and kept, whatever a later operator would choose."""
    spec = snapshot.spec
    if spec is None:
        return draft
    if draft.state.resolved is None:
        run_uri = layout.run_root(spec.storage.output_uri, snapshot.run.uid)
        state = replace(
            draft.state,
            resolved=choices(spec, snapshot.default_image),
            artifacts=Artifacts(runURI=run_uri),
        )
        draft = draft.with_state(state).normal("Accepted", f"results go to {run_uri}")
    if any(item.cause in UNACCEPTED for item in snapshot.refusals):
        return draft
    for kind in ("Reconciling", "Stalled"):
        draft = draft.set_condition(kind, "False", "Accepted")
    return draft.set_condition("Accepted", "True", "Accepted")


def case_of(snapshot: Snapshot, draft: Draft) -> Case | None:
    """The snapshot as that of an accepted run; None when it is not one."""
    if snapshot.spec is None or draft.state.resolved is None:
        return None
    return Case(
        run=snapshot.run,
        spec=snapshot.spec,
        resolved=draft.state.resolved,
        now=snapshot.now,
        watched_seconds=snapshot.watched_seconds,
        default_ca=snapshot.default_ca,
        progress_interval=snapshot.progress_interval,
        family=snapshot.family,
        reading=snapshot.reading,
        reading_beside=snapshot.reading_beside,
        refusals={item.ref.name: item for item in snapshot.refusals},
    )


def choices(spec: FineTuneSpec, default_image: str) -> Resolved:
    """What is decided where the spec leaves a choice."""
    training = resolved.training(spec)
    return Resolved(
        replicas=resolved.replicas(spec),
        gpus_per_pod=resolved.gpus(spec).training,
        image=spec.workers.image or default_image,
        warmup_steps=training.warmup_steps or 0,
        global_batch_size=training.global_batch_size or resolved.clips_at_once(spec),
        predicted_memory_gib=predicted_memory(spec),
    )


def not_accepted(draft: Draft, reason: Reason, message: str, *, stalled: bool) -> Draft:
    """Accepted is False; said once as an Event, not at every visit."""
    old = conditions.find(draft.state, "Accepted")
    news = old is None or old.status != "False"
    advice = f"{message}; {ROWS[reason].action}"
    draft = draft.set_condition("Accepted", "False", reason, advice)
    draft = draft.set_condition("Stalled", "True" if stalled else "False", reason, message)
    draft = draft.set_condition("Reconciling", "False" if stalled else "True", reason, message)
    return draft.warning(reason, advice) if news else draft


def _overdue(pod: Pod, draft: Draft) -> bool:
    """A pod on a dead node is not waited for."""
    return pod.gone_by is not None and draft.now > pod.gone_by + SLACK
