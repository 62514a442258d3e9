"""Progress of the training as numbers in the status, written no more often than the settings allow."""

from __future__ import annotations

import math

from mochi_api.outcomes import TrainingResult
from mochi_api.progress import Progress
from mochi_api.status import Checkpoint, Checkpoints, MetricValue, TrainingStatus
from mochi_operator import conditions
from mochi_operator.plan import Draft
from mochi_operator.snapshot import Snapshot
from mochi_operator.timestamps import from_unix, render, seconds_since

NOT_A_NUMBER = "NaN"


def read(snapshot: Snapshot, draft: Draft) -> Draft:
    """The draft with the newest numbers, if there are any and it is time for them."""
    progress, before = snapshot.progress, draft.status.training or TrainingStatus()
    if progress is None or not _due(snapshot, before, progress):
        return draft
    draft = draft.with_status(training=_measured(before, progress, render(snapshot.now)))
    if progress.checkpoint_step is None or not progress.checkpoint_uri:
        return draft
    latest = Checkpoint(
        step=progress.checkpoint_step, uri=progress.checkpoint_uri, time=from_unix(progress.checkpoint_time)
    )
    draft = draft.with_status(checkpoints=Checkpoints(latest=latest))
    return checkpoint_said(snapshot, draft, latest)


def checkpoint_said(snapshot: Snapshot, draft: Draft, latest: Checkpoint) -> Draft:
    """CheckpointReady names the newest complete checkpoint."""
    message = f"step {latest.step}: {latest.uri}"
    status = conditions.put(draft.status, "CheckpointReady", "True", "CheckpointSaved", message, snapshot.now)
    return draft.with_status(conditions=status.conditions)


def final(before: TrainingStatus, result: TrainingResult, ended: str) -> TrainingStatus:
    """The numbers of a training that is done: 100 %, whatever was read last."""
    metrics = [item for item in before.metrics if item.name != "loss"]
    loss = decimal(result.final_loss)
    return before.model_copy(
        update={
            "step": result.final_step,
            "progress_percentage": 100,
            "estimated_remaining_seconds": 0,
            "loss": loss,
            "metrics": [MetricValue(name="loss", value=loss), *metrics],
            "replicas_running": 0,
            "last_updated_time": ended,
        }
    )


def decimal(number: float | None) -> str:
    """A number as a short decimal string; `NaN` when it is not finite or not known."""
    return NOT_A_NUMBER if number is None or not math.isfinite(number) else f"{number:.4g}"


def _due(snapshot: Snapshot, before: TrainingStatus, progress: Progress) -> bool:
    age = seconds_since(before.last_updated_time, snapshot.now)
    if age is None or age >= snapshot.progress_interval:
        return True
    return progress.step == progress.total_steps and before.step != progress.step


def _measured(before: TrainingStatus, progress: Progress, now: str) -> TrainingStatus:
    total = max(progress.total_steps, 1)
    left = max(0, progress.total_steps - progress.step)
    pace = progress.step_seconds
    known = progress.step > 0
    metrics = [("loss", progress.loss), ("gradNorm", progress.grad_norm), ("stepSeconds", pace)]
    return before.model_copy(
        update={
            "step": progress.step,
            "total_steps": progress.total_steps,
            "progress_percentage": min(99, 100 * progress.step // total),
            "estimated_remaining_seconds": None if pace is None else round(left * pace),
            "loss": decimal(progress.loss) if known else "",
            "metrics": [MetricValue(name=name, value=decimal(number)) for name, number in metrics if known],
            "last_step_time": from_unix(progress.last_step_time) or before.last_step_time,
            "last_updated_time": now,
        }
    )
