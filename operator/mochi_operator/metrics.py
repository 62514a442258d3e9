"""The operator's own Prometheus metrics, and a line of numbers for every run; a run that is gone leaves no series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mochi_api import metrics as table
from mochi_api.metrics import Metric as Row
from mochi_api.status import PHASES, Phase
from mochi_operator import VERSION

Key = tuple[str, str]
_TOTAL = "_total"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNumbers:
    """What the metrics tell of one run."""

    mode: str
    uid: str
    phase: Phase
    attempts: int
    """Attempts of the training."""
    gpu_seconds: float
    """Of the training's attempts that the history keeps."""
    failed_items: Mapping[str, int]
    """Clips that could not be used, by stage."""
    created: float
    """Unix time at which the run was made."""
    conditions: Mapping[str, str]
    """Status by type."""
    stage_seconds: Mapping[str, float]
    """From start to end of the last attempt of each stage that has ended."""


class Metrics(Collector):
    """Counters of the loop, and gauges made from the newest numbers of every run."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runs: dict[Key, RunNumbers] = {}
        self._passes = _counter(self.registry, table.OPERATOR_RECONCILES)
        self._errors = _counter(self.registry, table.OPERATOR_RECONCILE_ERRORS)
        for kind in ("api", "defect"):
            self._errors.labels(kind)
        self._seconds = Histogram(
            table.OPERATOR_RECONCILE_SECONDS.name,
            table.OPERATOR_RECONCILE_SECONDS.help,
            registry=self.registry,
        )
        self._depth = Gauge(
            table.OPERATOR_QUEUE_DEPTH.name, table.OPERATOR_QUEUE_DEPTH.help, registry=self.registry
        )
        last = table.OPERATOR_LAST_EVENT
        self._last_event = Gauge(last.name, last.help, last.labels, registry=self.registry)
        build = table.OPERATOR_BUILD_INFO
        Gauge(build.name, build.help, build.labels, registry=self.registry).labels(version=VERSION).set(1)
        self.registry.register(self)

    def passed(self, result: str, seconds: float) -> None:
        """One pass over a run ended, `ok`, `conflict` or `error`."""
        self._passes.labels(result=result).inc()
        self._seconds.observe(seconds)

    def failed(self, kind: Literal["api", "defect"], seconds: float) -> None:
        """One pass ended with an error: of the API server, or of our own."""
        self._errors.labels(kind=kind).inc()
        self.passed("error", seconds)

    def queued(self, depth: int) -> None:
        """So many keys wait."""
        self._depth.set(depth)

    def heard(self, resource: str) -> None:
        """A watch of `resource`, in the plural, has told something; from any thread."""
        self._last_event.labels(resource=resource).set_to_current_time()

    def saw(self, key: Key, numbers: RunNumbers | None) -> None:
        """The run as it is now; None when it is gone."""
        if numbers is None:
            self._runs.pop(key, None)
        else:
            self._runs[key] = numbers

    def collect(self) -> Iterable[Metric]:
        """Series of all runs."""
        info, phase = _gauge(table.FINETUNE_INFO), _gauge(table.FINETUNE_PHASE)
        failed = _gauge(table.FINETUNE_FAILED_ITEMS)
        condition, took = _gauge(table.FINETUNE_CONDITION), _gauge(table.FINETUNE_STAGE_SECONDS)
        start = _gauge(table.FINETUNE_START)
        attempts, spent = _total(table.FINETUNE_ATTEMPTS), _total(table.FINETUNE_GPU_SECONDS)
        for (namespace, name), seen in self._runs.items():
            labels = [namespace, name]
            info.add_metric([*labels, seen.mode, seen.uid], 1)
            for word in PHASES:
                phase.add_metric([*labels, word], float(seen.phase == word))
            attempts.add_metric(labels, seen.attempts)
            spent.add_metric(labels, seen.gpu_seconds)
            for stage, count in seen.failed_items.items():
                failed.add_metric([*labels, stage], count)
            start.add_metric(labels, seen.created)
            for kind, status in seen.conditions.items():
                condition.add_metric([*labels, kind, status], 1)
            for stage, seconds in seen.stage_seconds.items():
                took.add_metric([*labels, stage], seconds)
        return [info, phase, attempts, spent, failed, start, condition, took]


def _counter(registry: CollectorRegistry, row: Row) -> Counter:
    return Counter(row.name.removesuffix(_TOTAL), row.help, row.labels, registry=registry)


def _total(row: Row) -> CounterMetricFamily:
    return CounterMetricFamily(row.name.removesuffix(_TOTAL), row.help, labels=row.labels)


def _gauge(row: Row) -> GaugeMetricFamily:
    return GaugeMetricFamily(row.name, row.help, labels=row.labels)
