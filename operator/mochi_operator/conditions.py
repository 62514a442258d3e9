"""The conditions of a status, and the one-word phase that follows from them; pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mochi_api.status import CONDITION_TYPES, Condition, ConditionType, FineTuneStatus, Phase
from mochi_operator.timestamps import render

Truth = Literal["True", "False", "Unknown"]
MESSAGE_LIMIT = 1024

PENDING = "Pending"
RUNNING = "Running"
STARTING = "Starting"
RETRYING = "Retrying"
COMPLETED = "Completed"

_PHASE_OF_TRAINING: dict[str, Phase] = {
    RUNNING: "Training",
    STARTING: "Starting",
    RETRYING: "Retrying",
    COMPLETED: "Sampling",
}


def initial(generation: int, now: datetime) -> list[Condition]:
    """All conditions, of which nothing is known yet."""
    return [
        Condition(
            type=kind,
            status="Unknown",
            reason=PENDING,
            observed_generation=generation,
            last_transition_time=render(now),
        )
        for kind in CONDITION_TYPES
    ]


def find(status: FineTuneStatus, kind: ConditionType) -> Condition | None:
    """One condition."""
    return next((item for item in status.conditions if item.type == kind), None)


def holds(status: FineTuneStatus, kind: ConditionType) -> bool:
    """Whether a condition is True."""
    found = find(status, kind)
    return found is not None and found.status == "True"


def has_reason(status: FineTuneStatus, kind: ConditionType, reason: str) -> bool:
    """Whether a condition gives this reason."""
    found = find(status, kind)
    return found is not None and found.reason == reason


def put(
    status: FineTuneStatus, kind: ConditionType, truth: Truth, reason: str, message: str, now: datetime
) -> FineTuneStatus:
    """The status with one condition changed; the time of transition moves only when `truth` does."""
    old = find(status, kind)
    since = old.last_transition_time if old is not None and old.status == truth else render(now)
    new = Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        observed_generation=old.observed_generation if old is not None else 0,
        last_transition_time=since,
    )
    if old is None:
        return status.model_copy(update={"conditions": [*status.conditions, new]})
    return status.model_copy(
        update={"conditions": [new if item.type == kind else item for item in status.conditions]}
    )


def observed(status: FineTuneStatus, generation: int) -> FineTuneStatus:
    """The status, said of this generation."""
    said = [item.model_copy(update={"observed_generation": generation}) for item in status.conditions]
    return status.model_copy(update={"conditions": said, "observed_generation": generation})


def phase(status: FineTuneStatus) -> Phase:
    """One word for people."""
    if holds(status, "Failed") or has_reason(status, "Accepted", "InvalidSpec"):
        return "Failed"
    if holds(status, "Succeeded"):
        return "Succeeded"
    if not holds(status, "Accepted"):
        return "Pending"
    training = find(status, "TrainingRunning")
    if training is not None and training.reason in _PHASE_OF_TRAINING:
        return _PHASE_OF_TRAINING[training.reason]
    started = any(stage.state != "Pending" for stage in status.stages)
    return "Preprocessing" if started else "Pending"
