"""Progress and health of the training in the state, changed no more often than the settings allow; pure."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta

from mochi_api.heartbeat import DIVERGING, Heartbeat
from mochi_api.outcomes import Reason, TrainingResult
from mochi_api.status import Best, Checkpoint, MetricValue
from mochi_operator.plan import Draft
from mochi_operator.snapshot import Case, Reading
from mochi_operator.state import Numbers, Step
from mochi_operator.timestamps import render
from mochi_operator.verdicts.finding import View
from mochi_operator.verdicts.liveness import SILENCE

NOT_A_NUMBER = "NaN"
DELAYED = "CheckpointDelayed"


def told(case: Case, draft: Draft) -> Draft:
    """The draft with the newest numbers and what they say of the training's health, if it is time for them.

    Both come at the pace of the settings: a loss that flips between finite and not must not make an Event each time.
    """
    reading = case.reading
    if reading is None:
        return draft
    if reading.heartbeat is None or reading.silent:
        return _unknown(draft, reading)
    if not _due(case, draft.state.numbers, reading.heartbeat):
        return draft
    beat = reading.heartbeat
    received = case.now - timedelta(seconds=reading.age_seconds)
    numbers = _measured(draft.state.numbers, beat, case.now, received)
    draft = draft.with_state(replace(draft.state, numbers=numbers))
    draft = with_best(draft, beat.best_step, beat.best_held_out_loss, beat.overfits_from_step)
    draft = _health(draft, beat)
    if beat.checkpoint_step is not None and beat.checkpoint_uri:
        saved = _ago(case.now, beat.checkpoint_age_seconds)
        latest = Checkpoint(
            step=beat.checkpoint_step,
            uri=beat.checkpoint_uri,
            time=render(saved) if saved is not None else None,
        )
        draft = with_checkpoint(draft, latest, delay=beat.checkpoint_delay or "")
    elif beat.checkpoint_delay:
        draft = _delayed(draft, beat.checkpoint_delay)
    return draft


def counted(draft: Draft, step: Step, view: View) -> Draft:
    """The draft with how many clips of a stage are there, whichever pod made them, as the pod that leads last counted."""
    pod, reading = view.leading, view.case.reading
    if pod is None or reading is None or reading.pod_uid != pod.uid or reading.silent:
        return draft
    beat = reading.heartbeat
    if beat is None or not beat.total or view.attempt.exit_code is not None:
        return draft
    return draft.with_step(replace(step, items=replace(step.items, total=beat.total, done=beat.done)))


def with_checkpoint(draft: Draft, latest: Checkpoint, *, delay: str = "") -> Draft:
    """CheckpointReady names the newest complete checkpoint, and why a newer one is not stored."""
    draft = draft.with_state(replace(draft.state, checkpoint=latest))
    if delay:
        return _delayed(draft, delay)
    return draft.set_condition(
        "CheckpointReady", "True", "CheckpointSaved", f"step {latest.step}: {latest.uri}"
    )


def _delayed(draft: Draft, why: str) -> Draft:
    """The training goes on, and what it does is not safe: an Event says so once."""
    latest = draft.state.checkpoint
    since = "no checkpoint is complete" if latest is None else f"step {latest.step}: {latest.uri}"
    was = next(item for item in draft.state.conditions if item.type == "CheckpointReady")
    draft = draft.set_condition(
        "CheckpointReady",
        "False" if latest is None else "True",
        DELAYED,
        f"{since}; the next one is not stored yet, training goes on: {why}",
    )
    return (
        draft if was.reason == DELAYED else draft.warning(DELAYED, f"a checkpoint is not stored yet: {why}")
    )


def with_best(draft: Draft, step: int | None, loss: float | None, overfits_from: int | None) -> Draft:
    """The draft with the best checkpoint, where one is known; that training overfits is an Event, once."""
    if step is None or loss is None:
        return draft
    before, now = (
        draft.state.best,
        Best(step=step, held_out_loss=decimal(loss), overfits_from_step=overfits_from),
    )
    draft = draft.with_state(replace(draft.state, best=now))
    if overfits_from is None or (before is not None and before.overfits_from_step is not None):
        return draft
    return draft.warning(
        "Overfitting", f"{overfitting(overfits_from)}; the checkpoint of step {step} is kept"
    )


def overfitting(step: int) -> str:
    """In words."""
    return f"overfits from step {step} on: the loss of the clips that are held out has only been higher since"


def final(before: Numbers, result: TrainingResult, ended: datetime) -> Numbers:
    """The numbers of a training that is done: 100 %, whatever was read last."""
    loss = decimal(result.final_loss)
    others = tuple(item for item in before.metrics if item.name != "loss")
    return replace(
        before,
        step=result.final_step,
        percent=100,
        remaining_seconds=0,
        loss=loss,
        metrics=(MetricValue(name="loss", value=loss), *others),
        replicas_running=0,
        updated=ended,
    )


def decimal(number: float | None) -> str:
    """A number as a short decimal string; `NaN` when it is not finite or not known."""
    return NOT_A_NUMBER if number is None or not math.isfinite(number) else f"{number:.4g}"


def _due(case: Case, before: Numbers, beat: Heartbeat) -> bool:
    if before.updated is None or case.age(before.updated) >= case.progress_interval:
        return True
    return 0 < beat.total == beat.done != before.step


def _measured(before: Numbers, beat: Heartbeat, now: datetime, received: datetime) -> Numbers:
    total = beat.total or before.total_steps
    left, pace = max(0, total - beat.done), beat.step_seconds
    known = beat.done > 0
    pairs = [("loss", beat.loss), ("gradNorm", beat.grad_norm), ("stepSeconds", pace)]
    if beat.held_out_loss is not None:
        pairs.append(("heldOutLoss", beat.held_out_loss))
    return replace(
        before,
        step=beat.done,
        total_steps=total,
        percent=min(99, 100 * beat.done // max(total, 1)),
        remaining_seconds=None if pace is None else round(left * pace),
        loss=decimal(beat.loss) if known else "",
        metrics=tuple(MetricValue(name=name, value=decimal(number)) for name, number in pairs if known),
        last_step=_ago(received, beat.step_age_seconds) or before.last_step,
        last_heartbeat=received,
        updated=now,
    )


def _health(draft: Draft, beat: Heartbeat) -> Draft:
    if beat.done == 0 or (beat.loss is None and beat.step_age_seconds is None):
        return draft
    if beat.loss is not None and beat.loss_ratio is not None and beat.loss_ratio >= DIVERGING:
        return _diverging(draft, beat.loss_ratio)
    if beat.loss is not None:
        messages = [f"{beat.non_finite} steps were not finite"] if beat.non_finite else []
        if beat.overfits_from_step is not None:
            messages.append(overfitting(beat.overfits_from_step))
        return draft.set_condition("TrainingHealthy", "True", "Stepping", "; ".join(messages))
    message = f"the loss is not finite; {beat.non_finite} such steps so far"
    was = next(item for item in draft.state.conditions if item.type == "TrainingHealthy")
    draft = draft.set_condition("TrainingHealthy", "False", Reason.NON_FINITE_LOSS, message)
    if was.status == "False":
        return draft
    return draft.warning(Reason.NON_FINITE_LOSS, "the loss is not finite")


def _diverging(draft: Draft, ratio: float) -> Draft:
    message = (
        f"the mean loss of the last 50 steps is {decimal(ratio)} times the lowest such mean before: "
        "lower training.learningRate, or look at the clips that came last"
    )
    was = next(item for item in draft.state.conditions if item.type == "TrainingHealthy")
    draft = draft.set_condition("TrainingHealthy", "False", "Diverging", message)
    return draft if was.reason == "Diverging" else draft.warning("Diverging", message)


def _unknown(draft: Draft, reading: Reading) -> Draft:
    """Silence is unknown, not failure."""
    if reading.silent < SILENCE:
        return draft
    message = "rank 0 gives no sign of life: neither its address nor its log answers"
    if reading.log_readable:
        message = "rank 0 gives no sign of life in its log, and its address does not answer"
    return draft.set_condition("TrainingHealthy", "Unknown", "ProgressUnavailable", message)


def _ago(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now - timedelta(seconds=min(seconds, 10**9))
