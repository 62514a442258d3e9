"""One engine for every step: attempts are opened (`opening`), watched, ended and counted here, and nowhere else; pure.

```
        next_attempt            complete_attempt
(none) ------------> running -------------------> completed: the next step
   ^                    | fail_attempt
   |   wait, clear away |                no budget, or a final reason
   +--------------------+----------------------------------------------> given up
```
An attempt that runs is shown to the checks in their order; the first that finds something has the word. A finding ends
the attempt when it has lasted for longer than its patience, and until then it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

from mochi_api.outcomes import ROWS, Outcome, Reason
from mochi_operator import names
from mochi_operator.build.pod import gpus
from mochi_operator.plan import Draft
from mochi_operator.snapshot import Case, Child
from mochi_operator.state import Attempt, Items, Step
from mochi_operator.steps import budget, opening, results, telling, trouble
from mochi_operator.steps.kinds import KINDS, StepKind
from mochi_operator.verdicts import containers, creation, images, liveness, nodes, waiting
from mochi_operator.verdicts.finding import Finding, View

CHECKS: Sequence[Callable[[View], Finding | None]] = (
    containers.one_failed,  # a container has ended badly
    containers.child_failed,  # its pod is gone, but the child knows
    nodes.lost,  # a node does not answer
    liveness.stalled,  # nothing moves; of shards also while others wait for the place that one that hangs has taken
    liveness.silent,  # not even a sign of life
    liveness.crowded_out,  # a first shard for which those that have ended leave no place
    images.cannot_start,  # an image, a Secret, a security context
    images.claim_missing,  # a claim
    creation.refused_pods,  # quota, admission, webhooks
    creation.silent_controller,  # nobody makes pods
    waiting.unschedulable,  # no node fits
    images.not_starting,  # a volume, or whatever else its kubelet lacks
    waiting.peers,  # the rest of the gang does not run yet
    nodes.terminating,  # a pod is being stopped
)

SOON_SECONDS = 2.0
LINGER_SECONDS = 15.0
"""A child whose containers have all ended may end by itself for so long; a sidecar can keep it for ever."""
USAGE_ERROR = 2
"""What a program exits with that does not know its command."""


def steps(case: Case, draft: Draft) -> Draft:
    """Policy: the steps of the sequence, one after the other; settled until all are over."""
    for kind in KINDS:
        draft = advance(case, draft, kind)
        if draft.settled:
            return draft
    return draft


def advance(case: Case, draft: Draft, kind: StepKind) -> Draft:
    """One step a bit further; settled unless it is over."""
    step = draft.state.steps[kind.name]
    if step.over:
        return clear_away(case, draft, step)
    if not step.attempts and not kind.due(draft.state):
        return draft
    return pursue(case, draft, kind, step)


def pursue(case: Case, draft: Draft, kind: StepKind, step: Step) -> Draft:
    """One step that is to be done a bit further: the attempt that runs, or the next one."""
    attempt = step.current
    if attempt is None:
        return opening.next_attempt(case, draft, kind, step)
    child = case.family.child(kind.name, attempt.number)
    if child is None or child.deleting:
        message = f"{names.child_kind(kind.name)} {attempt.child} was deleted while it ran"
        return fail_attempt(
            case, draft, kind, Finding(kind="deleted", reason=Reason.BACKEND_DELETED, message=message), child
        )
    return _watch_attempt(case, draft, kind, view_of(case, draft, kind, attempt, child))


def view_of(case: Case, draft: Draft, kind: StepKind, attempt: Attempt, child: Child) -> View:
    """What the checks are shown of an attempt."""
    check = draft.state.steps["check"]
    return View(
        case=case,
        attempt=attempt,
        child=child,
        pods=case.family.pods_of(child),
        expected=kind.pods(case),
        gang=kind.gang,
        gpus=gpus(case.spec, case.resolved, kind.name),
        beats=check.completed or check.current is not None,
    )


# An attempt that runs.


def _watch_attempt(case: Case, draft: Draft, kind: StepKind, view: View) -> Draft:
    draft, view = _kept_result(draft, kind, view)
    if _ended_well(view):
        return _complete_attempt(case, draft, kind, view)
    if kind.may_be_unknown and _unknown_command(view):
        return _skip(case, draft, kind, view)
    findings = list(_findings(view))
    late = waiting.too_long(view, findings)
    finding = late or next(iter(findings), None)
    step = trouble.kept(case, draft.state.steps[kind.name], finding, blind=view.child.blind)
    if finding is not None and trouble.lasts_too_long(case, step, finding):
        return fail_attempt(case, draft, kind, finding, view.child)
    if view.attempt.ran is None and view.all_run:
        step = step.with_newest(replace(view.attempt, ran=case.now))
    draft = telling.going(case, draft.with_step(step), kind, view, finding or trouble.remembered(step))
    return draft.waking(trouble.look_again(case, step, finding)).settle()


def _findings(view: View) -> Iterator[Finding]:
    """What keeps the attempt from going on, the most telling first; while a queue holds it back only that counts."""
    held = waiting.suspended(view)
    if held is not None:
        yield held
        return
    for check in CHECKS:
        finding = check(view)
        if finding is not None:
            yield finding


def _ended_well(view: View) -> bool:
    """Our container of rank 0, which stores the result last, ended with 0, or the child says so; no shard is at work.

    A sidecar that runs on, or fails, changes nothing, and neither does another rank that was taken away at the end. A shard
    that has not begun when the first has ended has nothing to do: it may wait for a place that the ended ones still hold.
    """
    first = view.first is not None and view.first.succeeded
    if view.gang or view.child.state == "Succeeded":
        return first or view.child.state == "Succeeded"
    told = first or view.attempt.exit_code == 0 or view.child.first_done
    return told and all(pod.succeeded or not pod.begun for pod in view.pods)


def _kept_result(draft: Draft, kind: StepKind, view: View) -> tuple[Draft, View]:
    """The result of the first shard, taken as soon as it is there: its pod may be gone when the last one ends."""
    outcome = _outcome_of(view) if not view.gang and view.expected > 1 else None
    result = outcome.stage_result if outcome is not None else None
    if outcome is None or result is None or view.attempt.exit_code is not None:
        return draft, view
    attempt = replace(view.attempt, exit_code=0, message=outcome.message)
    step = replace(draft.state.steps[kind.name].with_newest(attempt), items=results.items_of(result))
    return draft.with_step(step), replace(view, attempt=attempt)


def _unknown_command(view: View) -> bool:
    """The image, of an earlier version, does not know the step."""
    pod = view.first
    return pod is not None and pod.main.exit_code == USAGE_ERROR and containers.outcome(pod) is None


def _complete_attempt(case: Case, draft: Draft, kind: StepKind, view: View) -> Draft:
    """Take the result of rank 0; one that is lost is made again, which costs little: the work is in the store."""
    outcome = _outcome_of(view)
    if outcome is None and view.attempt.exit_code == 0:
        kept = results.result_of(draft.state.steps[kind.name].items)
        outcome = Outcome(reason=Reason.COMPLETED, message=view.attempt.message, stage_result=kept)
    recorded = kind.record(draft, _left(case, kind, view, outcome)) if outcome is not None else None
    if outcome is None or recorded is None:
        message = (
            f"{view.child.ref.kind} {view.child.ref.name} succeeded, but its pod left no readable result"
        )
        lost = Finding(kind="lost", reason=Reason.ARTIFACTS_MISSING, message=message)
        return fail_attempt(case, draft, kind, lost, view.child)
    step = recorded.state.steps[kind.name]
    last = outcome.training_result.final_step if outcome.training_result is not None else 0
    ended = replace(
        view.attempt,
        ended=view.child.finished or case.now,
        completed=True,
        reason=Reason.COMPLETED,
        message=outcome.message,
        exit_code=0,
        last_step=last,
    )
    done = replace(step.with_newest(ended), trouble=None, spent=0)
    return telling.completed(recorded.with_step(done), kind)


def _outcome_of(view: View) -> Outcome | None:
    """What rank 0 has left when it ended well."""
    return containers.outcome(view.first) if view.first is not None and view.first.succeeded else None


def _left(case: Case, kind: StepKind, view: View, outcome: Outcome) -> results.Left:
    return results.Left(
        step=kind.name,
        attempt=view.attempt.number,
        mode=case.spec.mode,
        ended=view.child.finished or case.now,
        outcome=outcome,
    )


def _skip(case: Case, draft: Draft, kind: StepKind, view: View) -> Draft:
    """Go on without the step: nothing is lost but what it would have found early."""
    message = f"the image {case.resolved.image} does not know {kind.name}"
    ended = replace(
        view.attempt,
        ended=case.now,
        reason=Reason.UNKNOWN,
        message=message,
        exit_code=view.first.main.exit_code if view.first is not None else None,
    )
    step = replace(draft.state.steps[kind.name].with_newest(ended), given_up=True, trouble=None)
    draft = draft.with_step(step).set_condition(kind.condition, "Unknown", "Skipped", message)
    return draft.normal("StageSkipped", f"{kind.name}: {message}")


def fail_attempt(case: Case, draft: Draft, kind: StepKind, finding: Finding, child: Child | None) -> Draft:
    """The attempt has failed: into the history with it, then a new one, or the end of the step.

    The failed object is deleted only after the status tells why, or a kill in between would lose the reason.
    """
    step, reason = draft.state.steps[kind.name], finding.reason or Reason.UNKNOWN
    reached = _last_step(draft, kind, finding)
    account = budget.account(step, reason, reached, case.spec.run_policy)
    step = replace(
        step.with_newest(_failed(case, step.attempts[0], finding, reached)),
        spent=account.spent,
        furthest=account.furthest,
        trouble=None,
        items=_items_of_failure(step, finding),
    )
    draft = _with_report(draft, finding.outcome)
    text = f"attempt {step.number}: {finding.message}"
    if account.refusal:
        draft, text = draft.with_step(replace(step, given_up=True)), f"{text}; {account.refusal}"
        return telling.given_up(case, draft, kind, reason, text, _action(finding, reason))
    wait = account.wait_seconds
    draft = draft.with_step(replace(step, not_before=case.now + timedelta(seconds=wait)))
    if child is not None and not child.deleting:
        draft = draft.deleting(child.ref)
    draft = telling.retrying(draft, kind, reason, text, wait)
    return draft.waking(min(SOON_SECONDS, wait)).settle()


def _failed(case: Case, attempt: Attempt, finding: Finding, last_step: int) -> Attempt:
    """The attempt as the history keeps it."""
    return replace(
        attempt,
        ended=case.now,
        reason=finding.reason or Reason.UNKNOWN,
        message=finding.message,
        exit_code=finding.exit_code,
        last_step=last_step,
    )


def _last_step(draft: Draft, kind: StepKind, finding: Finding) -> int:
    """How far the training got; clips of other steps fill no budget, since they are counted from zero by each attempt."""
    if kind.name != "train":
        return 0
    return draft.state.numbers.step if finding.last_step is None else finding.last_step


def _action(finding: Finding, reason: Reason) -> str:
    own = finding.outcome.action if finding.outcome is not None else None
    return own or ROWS[reason].action


def _items_of_failure(step: Step, finding: Finding) -> Items:
    """The clips that a failed stage names."""
    result = finding.outcome.stage_result if finding.outcome is not None else None
    items = step.items if result is None else results.items_of(result)
    return replace(items, message=finding.message)


def _with_report(draft: Draft, outcome: Outcome | None) -> Draft:
    if outcome is None or not outcome.report_uri:
        return draft
    artifacts = results.replaced(draft.state.artifacts, report_uri=outcome.report_uri)
    return draft.with_state(replace(draft.state, artifacts=artifacts))


def clear_away(case: Case, draft: Draft, step: Step) -> Draft:
    """What still runs of a step that is over: a child held by a sidecar, or one more that a slow operator made."""
    for child in case.family.children_of(step.name):
        if child.state != "Active" or child.deleting:
            continue
        newest = step.attempts[0].ended if step.attempts else None
        left = LINGER_SECONDS - case.age(newest) if newest is not None else 0.0
        draft = draft.waking(left) if left > 0 else draft.deleting(child.ref)
    return draft
