"""The loops: workers that take keys from the queue, and the resync that puts every run into it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import datetime

from mochi_operator import conditions
from mochi_operator.backend.protocol import TrainingBackend
from mochi_operator.cluster import FINETUNES, Cluster, ClusterError, StaleError, UnavailableError
from mochi_operator.gather import Gatherer, Key
from mochi_operator.metrics import Metrics, RunNumbers
from mochi_operator.pulse import Pulse
from mochi_operator.reconcile import Pass, reconcile
from mochi_operator.state import State
from mochi_operator.workqueue import WorkQueue

_log = logging.getLogger(__name__)

PASS_SECONDS = 120.0
"""Bound on one pass; every call in it has its own, shorter one."""
CONFLICT_SECONDS = 0.5


class Controller:
    """Owns the queue; everything it knows about a run it reads anew at every pass."""

    def __init__(
        self,
        cluster: Cluster,
        gatherer: Gatherer,
        backend: TrainingBackend,
        queue: WorkQueue[Key],
        metrics: Metrics,
        pulse: Pulse,
    ) -> None:
        self._cluster = cluster
        self._gatherer = gatherer
        self._backend = backend
        self._queue = queue
        self._metrics = metrics
        self._pulse = pulse
        self._known: dict[str | None, set[Key]] = {}

    async def work(self) -> None:
        """Take keys and reconcile them, for ever."""
        while True:
            key = await self._queue.take()
            self._metrics.queued(len(self._queue))
            await self.turn(key)

    async def turn(self, key: Key) -> None:
        """One pass over one run, whatever becomes of it."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(PASS_SECONDS):
                result = await reconcile(self._cluster, self._gatherer, self._backend, key)
        except StaleError:
            # Somebody wrote the object in between: look again, it is nobody's fault.
            self._queue.done(key, CONFLICT_SECONDS)
            self._metrics.passed("conflict", time.monotonic() - begun)
            return
        except (ClusterError, TimeoutError) as error:
            asked = error.retry_after if isinstance(error, UnavailableError) else None
            pause = self._queue.failed(key, at_least=asked or 0.0)
            _log.warning(
                "%s/%s: %s; tried again after %.0f s", *key, error or "the pass took too long", pause
            )
            self._metrics.failed("api", time.monotonic() - begun)
            return
        except Exception:
            # A defect met by one run must not stop the others.
            pause = self._queue.failed(key)
            _log.exception("%s/%s: defect of the operator; tried again after %.0f s", *key, pause)
            self._metrics.failed("defect", time.monotonic() - begun)
            return
        self._metrics.saw(key, _numbers(result))
        self._metrics.passed("ok", time.monotonic() - begun)
        self._queue.done(key, result.wake_seconds)

    async def resync(self, namespaces: Sequence[str], seconds: float) -> None:
        """Put every run into the queue, again and again: no watch is relied on."""
        while True:
            self._pulse.turned(listed=await self._sweep(namespaces))
            await asyncio.sleep(seconds)

    async def _sweep(self, namespaces: Sequence[str]) -> bool:
        """Whether any namespace could be listed; one that cannot costs only itself."""
        listed = False
        for namespace in namespaces or (None,):
            try:
                found = {
                    (raw["metadata"]["namespace"], raw["metadata"]["name"])
                    for raw in await self._cluster.list(FINETUNES, namespace)
                }
            except ClusterError as error:
                _log.warning("runs of %s cannot be listed: %s", namespace or "all namespaces", error)
                continue
            listed = True
            for key in sorted(found | self._known.get(namespace, set())):
                self._queue.add(key)
            self._known[namespace] = found
        return listed


def gpu_seconds(state: State, now: datetime) -> float:
    """GPUs of the training times the seconds that the attempts of the history have run until now."""
    chosen = state.resolved
    gpus = chosen.replicas * chosen.gpus_per_pod if chosen is not None else 0
    ran = (attempt for attempt in state.steps["train"].attempts if attempt.ran is not None)
    return gpus * sum(((each.ended or now) - (each.ran or now)).total_seconds() for each in ran)


def _numbers(result: Pass) -> RunNumbers | None:
    """What the metrics tell of the run; None when it is gone."""
    snapshot = result.snapshot
    if snapshot is None:
        return None
    state = result.plan.state or snapshot.state
    return RunNumbers(
        mode=snapshot.spec.mode if snapshot.spec is not None else "",
        uid=snapshot.run.uid,
        phase=conditions.phase(state),
        attempts=state.steps["train"].number,
        gpu_seconds=gpu_seconds(state, snapshot.now),
        failed_items={
            name: step.items.failed for name, step in state.steps.items() if name != "train" and step.attempts
        },
        created=snapshot.run.created.timestamp(),
        conditions={item.type: item.status for item in state.conditions},
        stage_seconds={
            name: (step.attempts[0].ended - step.attempts[0].started).total_seconds()
            for name, step in state.steps.items()
            if step.attempts and step.attempts[0].ended is not None
        },
    )
