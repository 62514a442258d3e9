"""The Prometheus metrics of a training rank, as `mochi_api.metrics` names them."""

from __future__ import annotations

import math
import time

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mochi_api import metrics
from mochi_trainer.sigma_bins import names
from mochi_trainer.storage import counts
from mochi_trainer.train.best import Best
from mochi_trainer.train.evaluation import Losses
from mochi_trainer.train.step import StepRecord

EMA = 0.98
BUCKETS = (0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 60, 120)
"""Seconds; a step takes a fraction of one for nano, and up to half a minute for the published model."""
WAIT_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60)


class Exposed:
    """Everything at `/metrics`; what happens is told by the training thread, and read by the server's threads."""

    def __init__(self, *, total_steps: int) -> None:
        self.registry = CollectorRegistry()
        self._step, self._total = self._gauge(metrics.TRAIN_STEP), self._gauge(metrics.TRAIN_TOTAL_STEPS)
        self._loss = self._gauge(metrics.TRAIN_LOSS)
        self._loss_ema = _Mean(self._gauge(metrics.TRAIN_LOSS_EMA))
        self._norm = self._gauge(metrics.TRAIN_GRAD_NORM)
        self._rate = self._gauge(metrics.TRAIN_LEARNING_RATE)
        self._speed = self._gauge(metrics.TRAIN_SAMPLES_PER_SECOND)
        self._last = self._gauge(metrics.TRAIN_LAST_STEP)
        self._saved = self._gauge(metrics.TRAIN_LAST_CHECKPOINT)
        self._saved_step = self._gauge(metrics.TRAIN_LAST_CHECKPOINT_STEP)
        self._save_seconds = self._gauge(metrics.TRAIN_CHECKPOINT_SECONDS)
        self._held_out = self._gauge(metrics.TRAIN_HELD_OUT_LOSS)
        self._best = self._gauge(metrics.TRAIN_BEST_STEP)
        for gauge in (self._held_out, self._best):
            gauge.set(math.nan)
        self._bad = self._counter(metrics.TRAIN_NONFINITE)
        for what in ("loss", "gradient"):
            self._bad.labels(what)
        self._skipped = self._counter(metrics.TRAIN_SKIPPED)
        self._restarts = self._counter(metrics.TRAIN_RESTARTS)
        self._failures = self._counter(metrics.TRAIN_CHECKPOINT_FAILURES)
        self._dropped = self._counter(metrics.TRAIN_CHECKPOINTS_DROPPED)
        self._delayed_since: float | None = None
        self._gauge(metrics.TRAIN_CHECKPOINT_DELAY).set_function(self._delay_seconds)
        self._duration = self._histogram(metrics.TRAIN_STEP_SECONDS, BUCKETS)
        self._wait = self._histogram(metrics.TRAIN_DATA_WAIT, WAIT_BUCKETS)
        by_sigma = metrics.TRAIN_SIGMA_LOSS
        bins = Gauge(by_sigma.name, by_sigma.help, by_sigma.labels, registry=self.registry)
        self._by_sigma = [_Mean(bins.labels(name)) for name in names()]
        self._mfu = self._gauge(metrics.TRAIN_MFU)
        self._mfu.set(math.nan)
        self._ideal_seconds: float | None = None
        self.registry.register(_Memory())
        self.registry.register(_Requests())
        self._total.set(total_steps)

    def ideal(self, seconds: float) -> None:
        """How long a step would take a GPU that does nothing but what the model asks for, at the speed of its data sheet."""
        self._ideal_seconds = seconds

    def resumed(self, step: int) -> None:
        """Training goes on after `step` steps."""
        self._step.set(step)
        self._restarts.inc()

    def stepped(self, record: StepRecord) -> None:
        """A step is done."""
        self._step.set(record.step)
        self._loss.set(record.loss)
        self._norm.set(record.gradient_norm)
        self._rate.set(record.learning_rate)
        self._last.set(time.time())
        self._duration.observe(record.seconds)
        self._wait.observe(record.data_seconds)
        if record.seconds > 0:
            self._speed.set(len(record.slots) / record.seconds)
            if self._ideal_seconds is not None:
                self._mfu.set(self._ideal_seconds / record.seconds)
        if not math.isfinite(record.loss):
            self._bad.labels("loss").inc()
        elif not math.isfinite(record.gradient_norm):
            self._bad.labels("gradient").inc()
        else:
            self._loss_ema.add(record.loss)
        self._skipped.inc(not record.finite)
        for mean, loss in zip(self._by_sigma, record.by_sigma, strict=False):
            if loss is not None:
                mean.add(loss)

    def validated(self, losses: Losses) -> None:
        """The clips that are held out were evaluated."""
        self._held_out.set(losses.loss)

    def judged(self, best: Best | None) -> None:
        """Which checkpoint is the best."""
        self._best.set(math.nan if best is None else best.step)

    def saved(self, step: int, seconds: float) -> None:
        """A checkpoint is complete, so many seconds after its state was copied."""
        self._saved.set(time.time())
        self._saved_step.set(step)
        self._delayed_since = None
        self._save_seconds.set(seconds)

    def save_failed(self) -> None:
        """The store did not answer while a checkpoint was written."""
        self._failures.inc()

    def save_delayed(self) -> None:
        """The newest checkpoint is not complete since the store does not answer, or refuses."""
        if self._delayed_since is None:
            self._delayed_since = time.monotonic()

    def save_dropped(self) -> None:
        """A checkpoint is given up unsaved."""
        self._dropped.inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _delay_seconds(self) -> float:
        since = self._delayed_since
        return 0.0 if since is None else time.monotonic() - since

    def _gauge(self, metric: metrics.Metric) -> Gauge:
        return Gauge(metric.name, metric.help, registry=self.registry)

    def _counter(self, metric: metrics.Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: metrics.Metric, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(metric.name, metric.help, buckets=buckets, registry=self.registry)


class _Mean:
    """An exponential mean that starts with the first value."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge, self._value = gauge, math.nan
        gauge.set(math.nan)

    def add(self, value: float) -> None:
        self._value = value if math.isnan(self._value) else EMA * self._value + (1 - EMA) * value
        self._gauge.set(self._value)


class _Memory(Collector):
    """The GPU's memory as torch counts it, when it is asked for; zeros without a GPU."""

    def collect(self) -> list[Family]:
        used = torch.cuda.is_available() and torch.cuda.memory_allocated() > 0
        counts = torch.cuda.memory_stats() if used else {}
        ooms, retries, reserved = metrics.TRAIN_OOMS, metrics.TRAIN_ALLOC_RETRIES, metrics.TRAIN_MAX_RESERVED
        return [
            CounterMetricFamily(ooms.name, ooms.help, value=counts.get("num_ooms", 0)),
            CounterMetricFamily(retries.name, retries.help, value=counts.get("num_alloc_retries", 0)),
            GaugeMetricFamily(reserved.name, reserved.help, value=counts.get("reserved_bytes.all.peak", 0)),
        ]


class _Requests(Collector):
    """Requests to S3, as the storage counts them, when they are asked for."""

    def collect(self) -> list[Family]:
        row = metrics.TRAIN_S3_REQUESTS
        family = CounterMetricFamily(row.name, row.help, labels=row.labels)
        for (operation, result), count in sorted(counts().items()):
            family.add_metric([operation, result], count)
        return [family]
