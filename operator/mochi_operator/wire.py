"""The door between the status in the API server and the operator's own `State`; pure.

A status may have been written by another version: what cannot be read counts as absent, and the attempts of a version
that kept none for the steps around the training are made up from what it did keep.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mochi_api import status as wire
from mochi_api.outcomes import Reason
from mochi_api.reading import lenient
from mochi_api.runfile import PREVIEW, Stage
from mochi_api.status import FineTuneStatus, Phase, Previews, StageState, StageStatus, TrainingStatus
from mochi_operator import conditions, names
from mochi_operator.state import STEPS, Attempt, Items, Numbers, Result, State, Step, Trouble
from mochi_operator.timestamps import EPOCH, parse, render

MESSAGE_LIMIT = 1024
BACKEND_KIND = "PyTorchJob"


def parse_status(raw: object) -> FineTuneStatus:
    """A status, as far as it can be read."""
    return lenient(FineTuneStatus, raw or {}) or FineTuneStatus()


def read(status: FineTuneStatus) -> State:
    """The state that a status tells."""
    steps = {name: Step(name=name) for name in STEPS}
    for entry in status.stages:
        if entry.name in steps and entry.name != "train":
            steps[entry.name] = _stage(entry, entry.name)
    steps["train"] = _training(status)
    return State(
        conditions=tuple(status.conditions),
        result=status.result or _told_result(status),
        resolved=status.resolved,
        steps=steps,
        numbers=_numbers(status.training or TrainingStatus()),
        checkpoint=status.checkpoints.latest if status.checkpoints is not None else None,
        best=status.best,
        previews=status.previews or Previews(),
        artifacts=status.artifacts,
    )


def write(state: State, *, phase: Phase, generation: int) -> dict[str, Any]:
    """The status that tells a state, said of this generation of the spec."""
    train = state.steps["train"]
    status = FineTuneStatus(
        observed_generation=generation,
        phase=phase,
        message=conditions.summary(state),
        result=state.result,
        conditions=conditions.observed(state, generation),
        resolved=state.resolved,
        stages=[_entry(step) for name, step in state.steps.items() if name != "train" and _begun(step)],
        training=_training_entry(train, state.numbers) if _begun(train) else None,
        checkpoints=wire.Checkpoints(latest=state.checkpoint) if state.checkpoint is not None else None,
        best=state.best,
        previews=state.previews if state.previews != Previews() else None,
        attempts=[_attempt_entry(item) for item in train.attempts],
        artifacts=state.artifacts,
    )
    return status.to_wire()


def _told_result(status: FineTuneStatus) -> Result:
    """The end of a run that an earlier version looked after; it is terminal whoever wrote it."""
    true = {item.type for item in status.conditions if item.status == "True"}
    return "Failed" if "Failed" in true else "Succeeded" if "Succeeded" in true else ""


def _begun(step: Step) -> bool:
    return bool(step.attempts) or step.given_up or step.trouble is not None


def _stage(entry: StageStatus, name: Stage) -> Step:
    attempts = tuple(_attempt(item) for item in entry.attempts) or _made_up(entry)
    items = Items(
        cache_key=entry.cache_key,
        cache_hit=entry.cache_hit,
        total=entry.items_total,
        done=entry.items_done,
        failed=entry.items_failed,
        failures=tuple(entry.failures),
        message=entry.message,
    )
    return Step(
        name=name,
        attempts=attempts,
        spent=entry.spent,
        given_up=entry.state == "Failed",
        not_before=parse(entry.next_attempt_time),
        trouble=_trouble(entry.trouble),
        items=items,
    )


def _made_up(entry: StageStatus) -> tuple[Attempt, ...]:
    if entry.state == "Pending" or not entry.job_name:
        return ()
    started = parse(entry.start_time) or EPOCH
    running = entry.state == "Running"
    return (
        Attempt(
            number=names.attempt_of(entry.job_name, entry.name),
            child=entry.job_name,
            started=started,
            ended=None if running else parse(entry.completion_time) or started,
            completed=entry.state == "Succeeded",
            reason=None if running else Reason.COMPLETED if entry.state == "Succeeded" else Reason.UNKNOWN,
            message=entry.message,
        ),
    )


def _training(status: FineTuneStatus) -> Step:
    told = status.training or TrainingStatus()
    attempts = tuple(_attempt(item) for item in status.attempts)
    return Step(
        name="train",
        attempts=attempts,
        spent=told.spent,
        furthest=max([told.furthest_step, *(item.last_step for item in attempts if item.ended is not None)]),
        not_before=parse(told.next_attempt_time),
        trouble=_trouble(told.trouble),
    )


def _attempt(entry: wire.Attempt) -> Attempt:
    started = parse(entry.start_time) or EPOCH
    reason = _reason(entry.reason)
    return Attempt(
        number=entry.number,
        child=entry.backend_name,
        started=started,
        ran=parse(entry.running_time),
        ended=None if reason is None else parse(entry.end_time) or started,
        completed=reason is Reason.COMPLETED,
        reason=reason,
        message=entry.message,
        exit_code=entry.exit_code,
        last_step=entry.last_step,
    )


def _reason(text: str) -> Reason | None:
    if not text:
        return None
    return Reason(text) if text in set(Reason) else Reason.UNKNOWN


def _trouble(entry: wire.Trouble | None) -> Trouble | None:
    since = parse(entry.since) if entry is not None else None
    if entry is None or since is None:
        return None
    return Trouble(kind=entry.kind, message=entry.message, since=since, announced=entry.announced)


def _numbers(told: TrainingStatus) -> Numbers:
    return Numbers(
        step=told.step,
        total_steps=told.total_steps,
        percent=told.progress_percentage,
        remaining_seconds=told.estimated_remaining_seconds,
        loss=told.loss,
        metrics=tuple(told.metrics),
        replicas_running=told.replicas_running,
        last_step=parse(told.last_step_time),
        last_heartbeat=parse(told.last_heartbeat_time),
        updated=parse(told.last_updated_time),
    )


def _entry(step: Step) -> StageStatus:
    first, newest, items = _oldest(step), next(iter(step.attempts), None), step.items
    return StageStatus(
        name=step.name,
        state=_word(step),
        job_name=newest.child if newest is not None else "",
        cache_key=items.cache_key,
        cache_hit=items.cache_hit,
        items_total=items.total,
        items_done=items.done,
        items_failed=items.failed,
        failures=list(items.failures),
        message=_shortened(items.message),
        attempt=step.number,
        spent=step.spent,
        next_attempt_time=_rendered(step.not_before),
        trouble=_trouble_entry(step.trouble),
        attempts=[_attempt_entry(item) for item in step.attempts],
        start_time=_rendered(first.started if first is not None else None),
        completion_time=_rendered(newest.ended if newest is not None and step.over else None),
    )


def _oldest(step: Step) -> Attempt | None:
    return step.attempts[-1] if step.attempts else None


def _word(step: Step) -> StageState:
    if step.completed:
        return "Succeeded"
    if step.given_up:
        return "Failed"
    if step.name == PREVIEW and step.current is None:
        return "Pending"  # its next attempt may never come: the training may end before
    return "Running" if step.attempts else "Pending"


def _training_entry(step: Step, numbers: Numbers) -> TrainingStatus:
    newest = next(iter(step.attempts), None)
    return TrainingStatus(
        backend_ref=wire.BackendRef(kind=BACKEND_KIND, name=newest.child) if newest is not None else None,
        attempt=step.number,
        step=numbers.step,
        total_steps=numbers.total_steps,
        progress_percentage=numbers.percent,
        estimated_remaining_seconds=numbers.remaining_seconds,
        loss=numbers.loss,
        metrics=list(numbers.metrics),
        replicas_running=numbers.replicas_running,
        last_step_time=_rendered(numbers.last_step),
        last_updated_time=_rendered(numbers.updated),
        last_heartbeat_time=_rendered(numbers.last_heartbeat),
        next_attempt_time=_rendered(step.not_before),
        spent=step.spent,
        furthest_step=step.furthest,
        trouble=_trouble_entry(step.trouble),
    )


def _attempt_entry(attempt: Attempt) -> wire.Attempt:
    return wire.Attempt(
        number=attempt.number,
        backend_name=attempt.child,
        reason=attempt.reason.value if attempt.reason is not None else "",
        message=_shortened(attempt.message),
        exit_code=attempt.exit_code,
        last_step=attempt.last_step,
        start_time=_rendered(attempt.started),
        running_time=_rendered(attempt.ran),
        end_time=_rendered(attempt.ended),
    )


def _trouble_entry(trouble: Trouble | None) -> wire.Trouble | None:
    if trouble is None:
        return None
    return wire.Trouble(
        kind=trouble.kind,
        message=_shortened(trouble.message),
        since=render(trouble.since),
        announced=trouble.announced,
    )


def _shortened(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def _rendered(moment: datetime | None) -> str | None:
    return None if moment is None else render(moment)
