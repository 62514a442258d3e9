"""One pass over one run: gather, decide, apply."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mochi_operator import apply
from mochi_operator.backend.protocol import TrainingBackend
from mochi_operator.cluster import Cluster
from mochi_operator.decide import decide
from mochi_operator.gather import Gatherer, Key
from mochi_operator.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What a pass saw and when the next one is due."""

    seen: Snapshot | None
    """None when the run is gone; otherwise with the status as it is now."""
    wake_seconds: float | None


async def reconcile(cluster: Cluster, gatherer: Gatherer, backend: TrainingBackend, key: Key) -> Pass:
    """Bring one run a step further; raises ClusterError when a call failed, and then the next pass goes on.

    A child that cannot be created turns the plan into another one, which says so in the status.
    """
    snapshot = await gatherer.snapshot(key)
    if snapshot is None:
        return Pass(seen=None, wake_seconds=None)
    plan = decide(snapshot, backend)
    obstacles = await apply.create(cluster, snapshot, plan.creates)
    if obstacles:
        snapshot = replace(snapshot, obstacles=obstacles)
        plan = decide(snapshot, backend)
    await apply.finish(cluster, snapshot, plan)
    seen = snapshot if plan.status is None else replace(snapshot, status=plan.status)
    return Pass(seen=seen, wake_seconds=plan.wake_seconds)
