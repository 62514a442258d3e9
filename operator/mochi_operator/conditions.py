"""The conditions of a status, told to people and their programs; pure. No decision reads one back."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Literal

from mochi_api.outcomes import Reason
from mochi_api.runfile import STAGES
from mochi_api.status import CONDITION_TYPES, Condition, ConditionType, Phase
from mochi_operator.state import State, Step
from mochi_operator.timestamps import render

Truth = Literal["True", "False", "Unknown"]
MESSAGE_LIMIT = 1024
SUMMARY_LIMIT = 256

PENDING = "Pending"
RUNNING = "Running"
STARTING = "Starting"
WAITING = "Waiting"
RETRYING = "Retrying"
COMPLETED = "Completed"
SKIPPED = "Skipped"


def initial(now: datetime) -> tuple[Condition, ...]:
    """All conditions, of which nothing is known yet."""
    return tuple(_condition(kind, "Unknown", PENDING, "", now) for kind in CONDITION_TYPES)


def completed(state: State, now: datetime) -> State:
    """The state with every condition that this version knows; an earlier one knew fewer."""
    missing = tuple(
        _condition(kind, "Unknown", PENDING, "", now) for kind in CONDITION_TYPES if find(state, kind) is None
    )
    return replace(state, conditions=(*state.conditions, *missing)) if missing else state


def find(state: State, kind: ConditionType) -> Condition | None:
    """One condition."""
    return next((item for item in state.conditions if item.type == kind), None)


def set_condition(
    state: State, kind: ConditionType, truth: Truth, reason: str, message: str, now: datetime
) -> State:
    """The state with one condition changed; the time of transition moves only when `truth` does."""
    old = find(state, kind)
    new = _condition(kind, truth, reason, message, now)
    if old is None:
        return replace(state, conditions=(*state.conditions, new))
    if old.status == truth:
        new = _since(new, old.last_transition_time)
    return replace(state, conditions=tuple(new if item.type == kind else item for item in state.conditions))


def observed(state: State, generation: int) -> list[Condition]:
    """The conditions, said of this generation."""
    return [
        Condition(
            type=item.type,
            status=item.status,
            reason=item.reason,
            message=item.message,
            observed_generation=generation,
            last_transition_time=item.last_transition_time,
        )
        for item in state.conditions
    ]


def phase(state: State) -> Phase:
    """One word for people."""
    if state.result:
        return state.result
    if state.resolved is None:
        return "Pending"
    if state.steps["train"].completed:
        return "Sampling"
    if state.steps["train"].attempts or all(step.over for step in _before_training(state)):
        return _training_phase(state.steps["train"])
    return "Preprocessing" if any(step.attempts for step in state.steps.values()) else "Pending"


def summary(state: State) -> str:
    """What the run waits for, or why it failed, in a sentence."""
    failed = find(state, "Failed")
    if state.result == "Failed" and failed is not None:
        return _shortened(failed.message, SUMMARY_LIMIT)
    refused = _refused(state)
    if refused and not state.result:
        return _shortened(refused, SUMMARY_LIMIT)
    waits = [words for name in STAGES if (words := _waits_for(state.steps[name]))]
    return _shortened(waits[0], SUMMARY_LIMIT) if waits and not state.result else ""


def _refused(state: State) -> str:
    """Why the operator does not work on the run as it is."""
    accepted, reconciling = find(state, "Accepted"), find(state, "Reconciling")
    if accepted is not None and accepted.status == "False":
        return accepted.message
    if reconciling is not None and reconciling.status == "True" and reconciling.reason == Reason.INVALID_SPEC:
        return reconciling.message
    return ""


def _waits_for(step: Step) -> str:
    """Its trouble, or why the last attempt failed while the next one is waited for."""
    if step.trouble is not None:
        return step.trouble.message
    if step.over or step.current is not None or not step.attempts:
        return ""
    last = step.attempts[0]
    return f"{step.name}: attempt {last.number} failed, another follows: {last.message}"


def _training_phase(train: Step) -> Phase:
    if train.current is None:
        return "Retrying" if train.attempts else "Starting"
    return "Training" if train.current.ran is not None else "Starting"


def _before_training(state: State) -> list[Step]:
    return [state.steps[name] for name in ("trim", "captions", "videos")]


def _condition(kind: str, truth: Truth, reason: str, message: str, now: datetime) -> Condition:
    return Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=_shortened(message, MESSAGE_LIMIT),
        last_transition_time=render(now),
    )


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _since(condition: Condition, moment: str) -> Condition:
    return Condition(
        type=condition.type,
        status=condition.status,
        reason=condition.reason,
        message=condition.message,
        last_transition_time=moment,
    )
