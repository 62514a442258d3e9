"""What a training rank shows while it runs: its metrics and the progress document, safe to read from any thread."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mochi_api.heartbeat import LONGEST_DELAY
from mochi_api.progress import Progress
from mochi_trainer.train.best import Best
from mochi_trainer.train.divergence import Divergence
from mochi_trainer.train.evaluation import Losses
from mochi_trainer.train.exposed import Exposed
from mochi_trainer.train.step import StepRecord

RECENT = 20
"""Steps whose mean duration is shown."""


class Gauges:
    """The last known state of a training. Writers are the training thread, readers the server's threads."""

    def __init__(self, *, total_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._step_at: float | None = None
        self._saved_at: float | None = None
        self._lock = threading.Lock()
        self._progress = Progress(step=0, total_steps=total_steps)
        self._held_out: float | None = None
        self._best: Best | None = None
        self._overfits_from: int | None = None
        self._delay: str | None = None
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._divergence = Divergence()
        self._exposed = Exposed(total_steps=total_steps)

    def ideal(self, seconds: float) -> None:
        """How long a step would take at the speed of the GPU's data sheet."""
        self._exposed.ideal(seconds)

    def resumed(self, step: int, non_finite: int, losses: Iterable[float | None] = ()) -> None:
        """Training goes on after `step` steps, which had these losses."""
        with self._lock:
            for loss in losses:
                self._divergence.add(loss)
            self._progress = self._progress.model_copy(update={"step": step, "non_finite": non_finite})
        self._exposed.resumed(step)

    def stepped(self, record: StepRecord, *, non_finite: int) -> None:
        """A step is done; `non_finite` steps were skipped so far."""
        self._exposed.stepped(record)
        with self._lock:
            self._seconds.append(record.seconds)
            if record.finite:
                self._divergence.add(record.loss)
            self._step_at = self._clock()
            update = {
                "step": record.step,
                "loss": record.loss if math.isfinite(record.loss) else None,
                "grad_norm": record.gradient_norm if math.isfinite(record.gradient_norm) else None,
                "step_seconds": sum(self._seconds) / len(self._seconds),
                "last_step_time": time.time(),
                "non_finite": non_finite,
            }
            self._progress = self._progress.model_copy(update=update)

    def validated(self, losses: Losses) -> None:
        """The clips that are held out were evaluated."""
        self._exposed.validated(losses)
        with self._lock:
            self._held_out = losses.loss if math.isfinite(losses.loss) else None

    def judged(self, best: Best | None, overfits_from: int | None) -> None:
        """Which checkpoint is the best, and from which step on training no longer helps."""
        self._exposed.judged(best)
        with self._lock:
            self._best, self._overfits_from = best, overfits_from

    def saved(self, step: int, uri: str, seconds: float) -> None:
        """A checkpoint is complete, so many seconds after its state was copied."""
        self._exposed.saved(step, seconds)
        with self._lock:
            self._saved_at, self._delay = self._clock(), None
            update = {"checkpoint_step": step, "checkpoint_uri": uri, "checkpoint_time": time.time()}
            self._progress = self._progress.model_copy(update=update)

    def save_failed(self) -> None:
        """The store did not answer, or refused, while a checkpoint was written."""
        self._exposed.save_failed()

    def save_delayed(self, why: str) -> None:
        """The newest checkpoint is not complete since the store does not answer a rank, or refuses it."""
        with self._lock:
            self._delay = why[:LONGEST_DELAY]
        self._exposed.save_delayed()

    def save_dropped(self) -> None:
        """A checkpoint is given up unsaved."""
        self._exposed.save_dropped()

    def progress(self) -> Progress:
        """The state now."""
        with self._lock:
            return self._progress

    def signs(self) -> Mapping[str, Any]:
        """The state now as fields of the sign of life: ages, since clocks differ."""
        with self._lock:
            now, progress, held_out = self._clock(), self._progress, self._held_out
            ratio = self._divergence.ratio
            best, overfits_from = self._best, self._overfits_from
            step_at, saved_at, delay = self._step_at, self._saved_at, self._delay
        return {
            "done": progress.step,
            "total": progress.total_steps,
            "loss": progress.loss,
            "grad_norm": progress.grad_norm,
            "step_seconds": progress.step_seconds,
            "step_age_seconds": None if step_at is None else round(now - step_at, 3),
            "checkpoint_step": progress.checkpoint_step,
            "checkpoint_uri": progress.checkpoint_uri,
            "checkpoint_age_seconds": None if saved_at is None else round(now - saved_at, 3),
            "checkpoint_delay": delay,
            "non_finite": progress.non_finite,
            "held_out_loss": held_out,
            "best_step": None if best is None else best.step,
            "best_held_out_loss": None if best is None else best.loss,
            "overfits_from_step": overfits_from,
            "loss_ratio": None if ratio is None else round(ratio, 3),
        }

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return self._exposed.exposition()
