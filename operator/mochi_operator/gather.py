"""All reads of one pass over a run, in the order that keeps a late reader honest.

The MochiFineTune is read before its children: whatever its status speaks of exists in the lists that follow, or has
been deleted. Read the other way round, a child made in between would look deleted. Pods are asked by nobody here: what
they say of themselves, the prober has collected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mochi_api import identity
from mochi_api.runfile import PREVIEW, STAGES
from mochi_operator import observe, wire
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
from mochi_operator.prober import SignsOfLife, Target
from mochi_operator.settings import Settings
from mochi_operator.snapshot import Child, Family, Pod, Run, Snapshot, leading
from mochi_operator.state import State, Step
from mochi_operator.vigil import Vigil

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""A child without pods is normal for so long; after it, Events say why."""

STARTING_SECONDS = 30.0
"""A pod that has a node starts within that time, or Events say why not."""

Key = tuple[str, str]
"""Namespace and name of a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listed:
    """The raw objects of one run."""

    jobs: Sequence[Manifest]
    trainings: Sequence[Manifest]
    pods: Sequence[Manifest]
    served: bool


class Gatherer:
    """Reads snapshots. What it remembers between passes only saves calls."""

    def __init__(
        self,
        cluster: Cluster,
        backend: TrainingBackend,
        prober: SignsOfLife,
        settings: Settings,
        clock: Callable[[], datetime],
        steady: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._backend = backend
        self._prober = prober
        self._settings = settings
        self._clock = clock
        self._vigil = Vigil(clock, steady)
        self._quiet: dict[Key, str] = {}

    async def snapshot(self, key: Key) -> Snapshot | None:
        """The run as it stands, or None when it does not exist."""
        raw = await self._cluster.get(FINETUNES, *key)
        if raw is None:
            self.forget(key)
            return None
        run, status = observe.run(raw), wire.parse_status(raw.get("status"))
        state = wire.read(status)
        spec, problem = observe.spec(raw, accepted=state.resolved is not None)
        family = Family() if self._quiet.get(key) == run.uid else await self._family(run)
        self._note_quiet(key, run, state, family)
        self._prober.aim(key, _target(run, state, family))
        self._prober.aim(key, _leading_pod(run, state.steps[PREVIEW], family), "beside")
        return Snapshot(
            run=run,
            spec=spec,
            spec_problem=problem,
            state=state,
            written=status.to_wire(),
            now=self._clock(),
            watched_seconds=self._vigil.seconds(key),
            default_image=self._settings.trainer_image,
            default_ca=self._settings.ca_bundle,
            progress_interval=self._settings.progress_seconds,
            family=family,
            reading=self._prober.reading(key),
            reading_beside=self._prober.reading(key, "beside"),
        )

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a run that is gone."""
        self._prober.aim(key, None)
        self._prober.aim(key, None, "beside")
        self._vigil.forget(key)
        self._quiet.pop(key, None)

    async def _family(self, run: Run) -> Family:
        listed = await self._listed(run)
        own = [raw for raw in listed.pods if not observe.is_leftover_pod(raw, run)]
        pods = tuple([await self._warned_pod(run, observe.pod(raw)) for raw in own])
        children = [observe.child(raw) for raw in listed.jobs if observe.owner_uid(raw) == run.uid]
        children += [
            self._backend.observe(raw) for raw in listed.trainings if observe.owner_uid(raw) == run.uid
        ]
        return Family(
            children=tuple([await self._warned(run, child, pods) for child in children]),
            pods=pods,
            leftovers=tuple(
                observe.reference(raw)
                for raw in (*listed.jobs, *listed.trainings)
                if observe.is_leftover(raw, run) and "deletionTimestamp" not in raw["metadata"]
            ),
            leftover_pods=tuple(observe.pod(raw) for raw in listed.pods if observe.is_leftover_pod(raw, run)),
            backend_served=listed.served,
        )

    async def _listed(self, run: Run) -> _Listed:
        labels = {identity.LABEL_FINETUNE: run.name}
        jobs = await self._cluster.list(JOBS, run.namespace, labels=labels)
        try:
            trainings, served = (
                await self._cluster.list(self._backend.kind, run.namespace, labels=labels),
                True,
            )
        except NotServedError:
            trainings, served = [], False
        pods = await self._cluster.list(PODS, run.namespace, labels=labels)
        return _Listed(jobs=jobs, trainings=trainings, pods=pods, served=served)

    async def _warned(self, run: Run, child: Child, pods: Sequence[Pod]) -> Child:
        """The child; while it lacks pods, with what its controller says about it."""
        made = sum(pod.owner_uid == child.ref.uid for pod in pods)
        idle = child.state != "Active" or child.suspended or child.deleting
        if idle or made >= child.pods or self._age(child.created) < PATIENCE_SECONDS:
            return child
        events = await self._warnings(run.namespace, child.ref.uid)
        if events is None:
            return replace(child, blind=True)
        return replace(child, warning=observe.newest_warning(events, child.ref.name))

    async def _warned_pod(self, run: Run, pod: Pod) -> Pod:
        """The pod; while it has a node and does not start, with what its kubelet says about it."""
        if not pod.starting or self._age(pod.placed or pod.created) < STARTING_SECONDS:
            return pod
        events = await self._warnings(run.namespace, pod.uid)
        return replace(pod, warning=observe.newest_pod_warning(events or ()))

    async def _warnings(self, namespace: str, uid: str) -> list[Manifest] | None:
        """Warnings about one object; None when they cannot be read."""
        fields = {"involvedObject.uid": uid, "type": "Warning"}
        try:
            return await self._cluster.list(EVENTS, namespace, fields=fields)
        except ClusterError as error:
            _log.warning("events of %s in %s cannot be read: %s", uid, namespace, error)
            return None

    def _age(self, moment: datetime) -> float:
        return (self._clock() - moment).total_seconds()

    def _note_quiet(self, key: Key, run: Run, state: State, family: Family) -> None:
        """A run that has ended, and of which nothing runs, need not be listed again."""
        if state.result and not any(child.state == "Active" for child in family.children):
            self._quiet[key] = run.uid


def _target(run: Run, state: State, family: Family) -> Target | None:
    """The running pod that leads the attempt that runs, of the steps that follow each other."""
    found = (_leading_pod(run, state.steps[name], family) for name in STAGES)
    return next((target for target in found if target is not None), None)


def _leading_pod(run: Run, step: Step, family: Family) -> Target | None:
    attempt = step.current
    child = family.child(step.name, attempt.number) if attempt is not None else None
    pod = leading(family.pods_of(child), gang=step.name == "train") if child is not None else None
    if pod is None:
        return None
    return Target(
        namespace=run.namespace,
        pod=pod.name,
        uid=pod.uid,
        container=pod.main.name,
        address=pod.ip if step.name == "train" else "",
    )
