"""The operator's own Prometheus metrics, and what it last saw of every run; a run that is gone leaves no series."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mochi_api import metrics as table
from mochi_api.metrics import Metric as Row
from mochi_api.status import PHASES
from mochi_operator import VERSION
from mochi_operator.snapshot import Snapshot

Key = tuple[str, str]
_TOTAL = "_total"


class Metrics(Collector):
    """Counters of the loop, and gauges made from the newest snapshot of every run."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runs: dict[Key, Snapshot] = {}
        self._passes = _counter(self.registry, table.OPERATOR_RECONCILES)
        self._seconds = Histogram(
            table.OPERATOR_RECONCILE_SECONDS.name,
            table.OPERATOR_RECONCILE_SECONDS.help,
            registry=self.registry,
        )
        self._depth = Gauge(
            table.OPERATOR_QUEUE_DEPTH.name, table.OPERATOR_QUEUE_DEPTH.help, registry=self.registry
        )
        build = table.OPERATOR_BUILD_INFO
        Gauge(build.name, build.help, build.labels, registry=self.registry).labels(version=VERSION).set(1)
        self.registry.register(self)

    def passed(self, result: str, seconds: float) -> None:
        """One pass over a run ended, `ok`, `conflict` or `error`."""
        self._passes.labels(result=result).inc()
        self._seconds.observe(seconds)

    def queued(self, depth: int) -> None:
        """So many keys wait."""
        self._depth.set(depth)

    def saw(self, key: Key, snapshot: Snapshot | None) -> None:
        """The run as it is now; None when it is gone."""
        if snapshot is None:
            self._runs.pop(key, None)
        else:
            self._runs[key] = snapshot

    def collect(self) -> Iterable[Metric]:
        """Series of all runs."""
        info, phase = _gauge(table.FINETUNE_INFO), _gauge(table.FINETUNE_PHASE)
        failed = _gauge(table.FINETUNE_FAILED_ITEMS)
        row = table.FINETUNE_ATTEMPTS
        attempts = CounterMetricFamily(row.name.removesuffix(_TOTAL), row.help, labels=row.labels)
        for (namespace, name), seen in self._runs.items():
            labels, status = [namespace, name], seen.status
            info.add_metric([*labels, seen.spec.mode if seen.spec is not None else "", seen.run.uid], 1)
            for word in PHASES:
                phase.add_metric([*labels, word], float(status.phase == word))
            attempts.add_metric(labels, status.training.attempt if status.training is not None else 0)
            for stage in status.stages:
                failed.add_metric([*labels, stage.name], stage.items_failed)
        return [info, phase, attempts, failed]


def _counter(registry: CollectorRegistry, row: Row) -> Counter:
    return Counter(row.name.removesuffix(_TOTAL), row.help, row.labels, registry=registry)


def _gauge(row: Row) -> GaugeMetricFamily:
    return GaugeMetricFamily(row.name, row.help, labels=row.labels)
