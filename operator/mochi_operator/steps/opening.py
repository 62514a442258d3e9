"""Between two attempts of a step: what is left of the last is cleared away and waited for, and the next is opened; pure."""

from __future__ import annotations

from dataclasses import replace

from mochi_api.outcomes import ROWS, Reason
from mochi_api.runfile import Stage
from mochi_operator import names
from mochi_operator.plan import Draft, Start
from mochi_operator.snapshot import Case, Pod
from mochi_operator.state import Attempt, Step
from mochi_operator.steps import telling, trouble
from mochi_operator.steps.kinds import StepKind
from mochi_operator.verdicts import creation, nodes, waiting
from mochi_operator.verdicts.finding import Finding

SOON_SECONDS = 2.0
RETRY_SECONDS = 15.0
"""A child that cannot be created is tried again so often."""


def next_attempt(case: Case, draft: Draft, kind: StepKind, step: Step) -> Draft:
    """Clear away what is left of the last attempt, wait, and start or adopt the next."""
    remains = [child for child in case.family.children_of(kind.name) if child.attempt <= step.number]
    if remains:
        refs = [child.ref for child in remains if not child.deleting]
        return draft.deleting(*refs).waking(SOON_SECONDS).settle()
    pause = _pause(case, step)
    if pause > 0:
        return draft.waking(pause).settle()
    staying = _last_pods(case, step)
    if staying:
        return _held(case, draft, kind, step, waiting.last_pods(staying)).waking(SOON_SECONDS)
    newer = min((child.attempt for child in case.family.children_of(kind.name)), default=None)
    if newer is not None:
        return _open(case, draft, kind, step, newer)
    return _start(case, draft, kind, step)


def _start(case: Case, draft: Draft, kind: StepKind, step: Step) -> Draft:
    """Make the next child; when that was refused just now, say so, and for how long it has been.

    The last one is gone by now, also when somebody else has deleted it: its run file goes too.
    """
    if step.attempts:
        draft = draft.outliving(step.attempts[0].child)
    number = _free_number(case, kind.name, step.number + 1)
    start = Start(step=kind.name, attempt=number)
    refusal = next((case.refusals[name] for name in _made(case, start) if name in case.refusals), None)
    if refusal is None:
        return _open(case, draft.starting(start), kind, step, number).settle()
    draft = _held(case, draft, kind, step, creation.refused_child(refusal))
    return telling.blocked(draft, kind, refusal).waking(RETRY_SECONDS)


def _held(case: Case, draft: Draft, kind: StepKind, step: Step, finding: Finding) -> Draft:
    """No attempt can be opened: told, and for some reasons, or after some time, the end of the step."""
    step = trouble.kept(case, step, finding)
    since = step.trouble.since if step.trouble is not None else case.now
    late = waiting.past_deadline(case, since, [finding])
    draft = draft.with_step(step)
    if late is None and not trouble.lasts_too_long(case, step, finding):
        return telling.held(case, draft, kind, finding).settle()
    last = late or finding
    reason = last.reason or Reason.UNKNOWN
    draft = draft.with_step(replace(step, given_up=True, trouble=None))
    return telling.given_up(case, draft, kind, reason, last.message, ROWS[reason].action)


def _made(case: Case, start: Start) -> tuple[str, str]:
    """Names of what is created for an attempt."""
    child = names.child(case.run.name, start.step, start.attempt)
    return names.run_config(child), child


def _free_number(case: Case, step: Stage, number: int) -> int:
    """The next number of which no pod of an earlier run of this name is left; a dead node can keep one for ever.

    Only the training's pods have names that follow from the number; those of Jobs end at random.
    """
    if step != "train":
        return number
    kept = {pod.attempt for pod in case.family.leftover_pods if pod.step == step}
    return next(found for found in range(number, number + len(kept) + 1) if found not in kept)


def _open(case: Case, draft: Draft, kind: StepKind, step: Step, number: int) -> Draft:
    child = case.family.child(kind.name, number)
    begun = Attempt(
        number=number,
        child=names.child(case.run.name, kind.name, number),
        started=child.created if child is not None else case.now,
    )
    draft = telling.opened(case, draft.with_step(step.with_new(begun)), kind, begun)
    return draft.waking(SOON_SECONDS).settle()


def _pause(case: Case, step: Step) -> float:
    return 0.0 if step.not_before is None else -case.age(step.not_before)


def _last_pods(case: Case, step: Step) -> list[Pod]:
    """Pods of earlier attempts that still run: they may be saving a checkpoint, or are collected late.

    So may those of a child that was made, and deleted by somebody, before its attempt was written down. A pod on a dead node never goes, and is not waited for. What it may still write is fenced: it has an attempt's number
    of its own.
    """
    return [
        pod
        for pod in case.family.pods
        if pod.step == step.name
        and (pod.attempt <= step.number or case.family.child(step.name, pod.attempt) is None)
        and not pod.ended
        and not nodes.unreachable(pod, case)
    ]
