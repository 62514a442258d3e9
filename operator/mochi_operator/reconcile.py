"""One pass over one run: gather, decide, apply."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mochi_operator import apply
from mochi_operator.backend.protocol import TrainingBackend
from mochi_operator.cluster import Cluster
from mochi_operator.decide import decide
from mochi_operator.gather import Gatherer, Key
from mochi_operator.plan import Plan
from mochi_operator.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What a pass saw and did, and when the next one is due."""

    snapshot: Snapshot | None
    """None when the run is gone."""
    plan: Plan
    wake_seconds: float | None


async def reconcile(cluster: Cluster, gatherer: Gatherer, backend: TrainingBackend, key: Key) -> Pass:
    """Bring one run a step further; raises ClusterError when a call failed, and then the next pass goes on.

    A child that cannot be created turns the plan into another one, which says so in the status: whatever else the pass
    has learnt is written all the same.
    """
    snapshot = await gatherer.snapshot(key)
    if snapshot is None:
        return Pass(snapshot=None, plan=Plan(), wake_seconds=None)
    plan = decide(snapshot, backend)
    await apply.clear(cluster, snapshot, plan.outlived)
    refusals = await apply.create(cluster, snapshot, plan.creates)
    if refusals:
        snapshot = replace(snapshot, refusals=refusals)
        plan = decide(snapshot, backend)
    await apply.finish(cluster, snapshot, plan)
    return Pass(snapshot=snapshot, plan=plan, wake_seconds=plan.wake_seconds)
