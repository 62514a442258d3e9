"""What a training rank shows while it runs: Prometheus metrics and the progress document, safe to read from any thread."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mochi_api import metrics
from mochi_api.progress import Progress
from mochi_trainer.train.step import StepRecord

RECENT = 20
"""Steps whose mean duration is shown."""
EMA = 0.98
BUCKETS = (0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 60, 120)
"""Seconds; a step takes a fraction of one for nano, and up to half a minute for the published model."""

WAIT_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60)


class Gauges:
    """The last known state of a training. Writers are the training thread, readers the server's threads."""

    def __init__(self, *, total_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._step_at: float | None = None
        self._saved_at: float | None = None
        self._lock = threading.Lock()
        self._progress = Progress(step=0, total_steps=total_steps)
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._ema: float | None = None
        self.registry = CollectorRegistry()
        self._step, self._total = self._gauge(metrics.TRAIN_STEP), self._gauge(metrics.TRAIN_TOTAL_STEPS)
        self._loss, self._loss_ema = self._gauge(metrics.TRAIN_LOSS), self._gauge(metrics.TRAIN_LOSS_EMA)
        self._norm, self._rate = (
            self._gauge(metrics.TRAIN_GRAD_NORM),
            self._gauge(metrics.TRAIN_LEARNING_RATE),
        )
        self._last, self._saved = (
            self._gauge(metrics.TRAIN_LAST_STEP),
            self._gauge(metrics.TRAIN_LAST_CHECKPOINT),
        )
        self._saved_step = self._gauge(metrics.TRAIN_LAST_CHECKPOINT_STEP)
        bad, duration = metrics.TRAIN_NONFINITE, metrics.TRAIN_STEP_SECONDS
        self._bad = Counter(bad.name, bad.help, bad.labels, registry=self.registry)
        for what in ("loss", "gradient"):
            self._bad.labels(what)
        self._duration = Histogram(duration.name, duration.help, buckets=BUCKETS, registry=self.registry)
        wait = metrics.TRAIN_DATA_WAIT
        self._wait = Histogram(wait.name, wait.help, buckets=WAIT_BUCKETS, registry=self.registry)
        self._total.set(total_steps)

    def resumed(self, step: int, non_finite: int) -> None:
        """Training goes on after `step` steps."""
        with self._lock:
            self._progress = self._progress.model_copy(update={"step": step, "non_finite": non_finite})
        self._step.set(step)

    def stepped(self, record: StepRecord, *, non_finite: int) -> None:
        """A step is done; `non_finite` steps were skipped so far."""
        now = time.time()
        self._show(record, now)
        with self._lock:
            self._seconds.append(record.seconds)
            self._step_at = self._clock()
            update = {
                "step": record.step,
                "loss": record.loss if math.isfinite(record.loss) else None,
                "grad_norm": record.gradient_norm if math.isfinite(record.gradient_norm) else None,
                "step_seconds": sum(self._seconds) / len(self._seconds),
                "last_step_time": now,
                "non_finite": non_finite,
            }
            self._progress = self._progress.model_copy(update=update)

    def saved(self, step: int, uri: str) -> None:
        """A checkpoint is complete."""
        now = time.time()
        self._saved.set(now)
        self._saved_step.set(step)
        with self._lock:
            self._saved_at = self._clock()
            update = {"checkpoint_step": step, "checkpoint_uri": uri, "checkpoint_time": now}
            self._progress = self._progress.model_copy(update=update)

    def progress(self) -> Progress:
        """The state now."""
        with self._lock:
            return self._progress

    def signs(self) -> Mapping[str, Any]:
        """The state now as fields of the sign of life: ages, since clocks differ."""
        with self._lock:
            now, progress = self._clock(), self._progress
            step_at, saved_at = self._step_at, self._saved_at
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
            "non_finite": progress.non_finite,
        }

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _show(self, record: StepRecord, now: float) -> None:
        self._step.set(record.step)
        self._loss.set(record.loss)
        self._norm.set(record.gradient_norm)
        self._rate.set(record.learning_rate)
        self._last.set(now)
        self._duration.observe(record.seconds)
        self._wait.observe(record.data_seconds)
        if not math.isfinite(record.loss):
            self._bad.labels("loss").inc()
        elif not math.isfinite(record.gradient_norm):
            self._bad.labels("gradient").inc()
        else:
            self._ema = record.loss if self._ema is None else EMA * self._ema + (1 - EMA) * record.loss
            self._loss_ema.set(self._ema)

    def _gauge(self, metric: metrics.Metric) -> Gauge:
        return Gauge(metric.name, metric.help, registry=self.registry)
