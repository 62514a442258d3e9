"""All reads of one pass over a run, in the order that keeps a late reader honest.

The MochiFineTune is read before its children: whatever its status speaks of exists in the lists that follow, or has
been deleted. Read the other way round, a child made in between would look deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mochi_api import identity
from mochi_api.progress import Progress
from mochi_api.status import FineTuneStatus
from mochi_operator import conditions, observe
from mochi_operator.backend.protocol import TrainingBackend
from mochi_operator.cluster import (
    EVENTS,
    FINETUNES,
    JOBS,
    PODS,
    Cluster,
    ClusterError,
    Manifest,
    NotServedError,
)
from mochi_operator.progress import ProgressSource
from mochi_operator.settings import Settings
from mochi_operator.snapshot import Child, ObjectRef, Pod, Run, Snapshot

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""A child without pods is normal for so long; after it, Events say why."""

Key = tuple[str, str]
"""Namespace and name of a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Family:
    """Children and pods of a run."""

    jobs: tuple[Child, ...] = ()
    attempts: tuple[Child, ...] = ()
    pods: tuple[Pod, ...] = ()
    leftovers: tuple[ObjectRef, ...] = ()
    served: bool = True


class Gatherer:
    """Reads snapshots. What it remembers between passes only saves calls and counts silence."""

    def __init__(
        self,
        cluster: Cluster,
        backend: TrainingBackend,
        progress: ProgressSource,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._cluster = cluster
        self._backend = backend
        self._progress = progress
        self._settings = settings
        self._clock = clock
        self._misses: dict[Key, int] = {}
        self._quiet: dict[Key, str] = {}

    async def snapshot(self, key: Key) -> Snapshot | None:
        """The run as it stands, or None when it does not exist."""
        raw = await self._cluster.get(FINETUNES, *key)
        if raw is None:
            self.forget(key)
            return None
        run, status = observe.run(raw), observe.status(raw)
        spec, problem = observe.spec(raw)
        family = _Family() if self._quiet.get(key) == run.uid else await self._family(run, status)
        self._note_quiet(key, run, status, family)
        progress = await self._ask(key, status, family)
        return Snapshot(
            run=run,
            spec=spec,
            spec_problem=problem,
            status=status,
            now=self._clock(),
            default_image=self._settings.trainer_image,
            progress_interval=self._settings.progress_seconds,
            jobs={child.stage: child for child in family.jobs},
            attempts={child.attempt: child for child in family.attempts},
            pods=family.pods,
            leftovers=family.leftovers,
            backend_served=family.served,
            progress=progress,
            progress_misses=self._misses.get(key, 0),
        )

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a run that is gone."""
        self._misses.pop(key, None)
        self._quiet.pop(key, None)

    async def _family(self, run: Run, status: FineTuneStatus) -> _Family:
        labels = {identity.LABEL_FINETUNE: run.name}
        jobs = await self._cluster.list(JOBS, run.namespace, labels=labels)
        trainings, served = await self._trainings(run.namespace, labels)
        pods = await self._cluster.list(PODS, run.namespace, labels=labels)
        pod_views = tuple(observe.pod(raw) for raw in pods)
        expected = status.resolved.replicas if status.resolved is not None else 1
        own_jobs = [observe.child(raw) for raw in jobs if observe.owner_uid(raw) == run.uid]
        own_trainings = [self._backend.observe(raw) for raw in trainings if observe.owner_uid(raw) == run.uid]
        return _Family(
            jobs=await self._warned(run, own_jobs, pod_views, 1),
            attempts=await self._warned(run, own_trainings, pod_views, expected),
            pods=pod_views,
            leftovers=tuple(
                observe.reference(raw)
                for raw in (*jobs, *trainings)
                if observe.is_leftover(raw, run) and "deletionTimestamp" not in raw["metadata"]
            ),
            served=served,
        )

    async def _trainings(self, namespace: str, labels: dict[str, str]) -> tuple[list[Manifest], bool]:
        try:
            return await self._cluster.list(self._backend.kind, namespace, labels=labels), True
        except NotServedError:
            return [], False

    async def _warned(
        self, run: Run, children: Sequence[Child], pods: Sequence[Pod], expected: int
    ) -> tuple[Child, ...]:
        """The children, those that lack pods with what their controller says about it."""
        return tuple([await self._warned_one(run, child, pods, expected) for child in children])

    async def _warned_one(self, run: Run, child: Child, pods: Sequence[Pod], expected: int) -> Child:
        made = sum(pod.owner_uid == child.ref.uid for pod in pods)
        young = (self._clock() - child.created).total_seconds() < PATIENCE_SECONDS
        if child.state != "Active" or child.suspended or child.deleting or made >= expected or young:
            return child
        fields = {"involvedObject.uid": child.ref.uid, "type": "Warning"}
        try:
            events = await self._cluster.list(EVENTS, run.namespace, fields=fields)
        except ClusterError as error:
            _log.warning("events of %s %s cannot be read: %s", child.ref.kind, child.ref.name, error)
            return child
        return replace(child, warning=observe.newest_warning(events, child.ref.name))

    def _note_quiet(self, key: Key, run: Run, status: FineTuneStatus, family: _Family) -> None:
        """A run that has ended, and of which nothing runs, need not be listed again."""
        ended = conditions.holds(status, "Failed") or conditions.holds(status, "Succeeded")
        active = any(child.state == "Active" for child in (*family.jobs, *family.attempts))
        if ended and not active:
            self._quiet[key] = run.uid

    async def _ask(self, key: Key, status: FineTuneStatus, family: _Family) -> Progress | None:
        first = self._first(status, family)
        if first is None:
            self._misses.pop(key, None)
            return None
        answer = await self._progress.read(first.ip)
        self._misses[key] = 0 if answer is not None else self._misses.get(key, 0) + 1
        return answer

    @staticmethod
    def _first(status: FineTuneStatus, family: _Family) -> Pod | None:
        """The running pod of rank 0 of the attempt that the status calls current."""
        attempt = status.attempts[0] if status.attempts else None
        if attempt is None or attempt.reason:
            return None
        owner = next((child.ref.uid for child in family.attempts if child.attempt == attempt.number), None)
        pods = (pod for pod in family.pods if pod.owner_uid == owner and pod.rank == 0)
        return next((pod for pod in pods if pod.running and pod.ip), None)
