"""What people are told of a step: conditions and Events; pure. Nothing here is read back."""

from __future__ import annotations

from dataclasses import replace

from mochi_api.outcomes import ROWS, Reason
from mochi_api.runfile import PREPROCESSING
from mochi_operator.conditions import COMPLETED, RETRYING, RUNNING, STARTING, WAITING
from mochi_operator.plan import Draft
from mochi_operator.policy import acceptance, ending
from mochi_operator.snapshot import Case, Refusal
from mochi_operator.state import Attempt, Step
from mochi_operator.steps import meter, topology
from mochi_operator.steps.kinds import StepKind
from mochi_operator.steps.trouble import ANNOUNCE_SECONDS
from mochi_operator.verdicts.finding import Finding, View


def opened(case: Case, draft: Draft, kind: StepKind, attempt: Attempt) -> Draft:
    """A new attempt."""
    if kind.name != "train":
        draft = draft.set_condition(kind.condition, "False", RUNNING, _named(kind, attempt))
        count = kind.pods(case)
        pods = f" with {count} pods" if count > 1 else ""
        return draft.normal("StageStarted", f"{_named(kind, attempt)}: Job {attempt.child} created{pods}")
    numbers = replace(draft.state.numbers, total_steps=case.spec.training.steps, replicas_running=0)
    draft = draft.with_state(replace(draft.state, numbers=numbers))
    draft = draft.set_condition("TrainingRunning", "False", STARTING, f"attempt {attempt.number}")
    draft = draft.set_condition("TrainingHealthy", "Unknown", STARTING, _NO_STEP)
    draft = topology.opened(case, draft)
    return draft.normal("AttemptStarted", f"attempt {attempt.number}: PyTorchJob {attempt.child} created")


def going(case: Case, draft: Draft, kind: StepKind, view: View, finding: Finding | None) -> Draft:
    """An attempt that runs, or waits to."""
    draft = _announced(case, draft, kind, view.attempt)
    if kind.name != "train":
        reason = RUNNING if finding is None else _waiting(finding, WAITING)
        parts = [_named(kind, view.attempt)]
        if view.expected > 1 and not view.all_run:
            parts.append(f"{view.up} of {view.expected} pods run")
        if finding is not None:
            parts.append(finding.message)
        if kind.name in PREPROCESSING:
            draft = meter.counted(draft, draft.state.steps[kind.name], view)
        return draft.set_condition(kind.condition, "False", reason, ": ".join(parts))
    return _training(case, draft, view, finding)


def _training(case: Case, draft: Draft, view: View, finding: Finding | None) -> Draft:
    running = sum(pod.running for pod in view.pods)
    draft = draft.with_state(
        replace(draft.state, numbers=replace(draft.state.numbers, replicas_running=running))
    )
    text = f"attempt {view.attempt.number}"
    if not view.all_run:
        text = f"{text}: {view.up} of {view.expected} pods run"
    if finding is not None:
        text = f"{text}; {finding.message}"
    if view.all_run or view.attempt.ran is not None:
        draft = draft.set_condition("TrainingRunning", "True", RUNNING, text)
        return meter.told(case, topology.told(case, draft, view))
    reason = STARTING if finding is None else _waiting(finding, STARTING)
    draft = draft.set_condition("TrainingRunning", "False", reason, text)
    return meter.told(case, draft)


def held(case: Case, draft: Draft, kind: StepKind, finding: Finding) -> Draft:
    """No attempt can be opened yet."""
    draft = _announced(case, draft, kind, None)
    text = finding.message if kind.name == "train" else f"{kind.name}: {finding.message}"
    return draft.set_condition(kind.condition, "False", _waiting(finding, WAITING), text)


def blocked(draft: Draft, kind: StepKind, refusal: Refusal) -> Draft:
    """The API server will not have the next child; of two causes the whole run is told, where it needs the child."""
    if kind.beside:
        return draft
    message = f"{refusal.ref.kind} {refusal.ref.name}: {refusal.message}"
    if refusal.cause == "taken":
        return acceptance.not_accepted(draft, Reason.NAME_CONFLICT, message, stalled=True)
    if refusal.cause == "unserved":
        return acceptance.not_accepted(draft, Reason.BACKEND_UNAVAILABLE, message, stalled=False)
    return draft


def completed(draft: Draft, kind: StepKind) -> Draft:
    """The step has left its result."""
    if kind.name == "train":
        steps = draft.state.numbers.step
        return draft.set_condition("TrainingRunning", "False", COMPLETED, f"{steps} steps")
    if kind.name == PREPROCESSING[-1]:
        reused = [name for name in PREPROCESSING if draft.state.steps[name].items.cache_hit]
        text = f"reused from the cache: {', '.join(reused)}" if reused else ""
        return draft.set_condition("Preprocessed", "True", COMPLETED, text)
    return draft


def retrying(draft: Draft, kind: StepKind, reason: Reason, text: str, wait_seconds: int) -> Draft:
    """An attempt has failed, and another follows."""
    said = text if kind.name == "train" else f"{kind.name}: {text}"
    draft = draft.set_condition(kind.condition, "False", RETRYING, said)
    if kind.name == "train":
        draft = draft.set_condition("TrainingHealthy", "Unknown", RETRYING, _NO_STEP)
        draft = topology.ended(draft, RETRYING)
        numbers = replace(draft.state.numbers, replicas_running=0, remaining_seconds=None)
        draft = draft.with_state(replace(draft.state, numbers=numbers))
    advice = f"{reason}: {said}; the next attempt starts after {wait_seconds} s; if it repeats: {ROWS[reason].action}"
    return draft.warning("AttemptFailed", advice)


def given_up(case: Case, draft: Draft, kind: StepKind, reason: Reason, text: str, action: str) -> Draft:
    """No further attempt: the run has failed, or goes on without what the step would have made."""
    said = text if kind.name == "train" else f"{kind.name}: {text}"
    draft = draft.set_condition(kind.condition, "False", reason, said)
    if kind.required:
        return ending.failed(case, draft, reason, said, action)
    return draft.warning(
        "StageFailed", f"{reason}: {said}; {action}; the training's result is not touched by it"
    )


def _announced(case: Case, draft: Draft, kind: StepKind, attempt: Attempt | None) -> Draft:
    """The draft with an Event about a trouble that lasts, once."""
    step: Step = draft.state.steps[kind.name]
    trouble = step.trouble
    if trouble is None or trouble.announced:
        return draft
    if case.age(trouble.since) < ANNOUNCE_SECONDS:
        return draft
    draft = draft.with_step(replace(step, trouble=replace(trouble, announced=True)))
    name = kind.name if attempt is None else _named(kind, attempt)
    return draft.warning("Waiting", f"{name}: {trouble.message}")


def _waiting(finding: Finding, otherwise: str) -> str:
    """The reason of a condition: for what is refused that of the table, already while it is given its time."""
    return finding.reason if finding.kind == "refused" and finding.reason is not None else otherwise


def _named(kind: StepKind, attempt: Attempt) -> str:
    return kind.name if attempt.number == 1 else f"{kind.name}: attempt {attempt.number}"


_NO_STEP = "no step of this attempt is known yet"
