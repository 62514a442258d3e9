"""From a snapshot to a plan: the policies in their order, then the manifests; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mochi_api.runfile import CacheKeys
from mochi_operator import conditions
from mochi_operator.backend.protocol import TrainingBackend
from mochi_operator.build.config import config_map
from mochi_operator.build.job import stage_job
from mochi_operator.build.order import Order
from mochi_operator.cluster import Manifest
from mochi_operator.plan import Draft, Plan, Start
from mochi_operator.policy import acceptance, attempts, ending, stages, training
from mochi_operator.snapshot import Snapshot

Policy = Callable[[Snapshot, Draft], Draft]

POLICIES: Sequence[Policy] = (
    acceptance.first_visit,  # all conditions exist
    ending.over,  # a run that has ended stays so
    acceptance.readable,  # the spec can be read
    acceptance.leftovers,  # children of an earlier run of this name go first
    acceptance.obstacles,  # names that are taken, objects that are refused
    acceptance.served,  # the cluster knows PyTorchJob
    acceptance.accepted,  # open choices are made, once
    acceptance.deadline,  # the run as a whole is in time
    stages.preprocessing,  # trim, captions, videos
    attempts.opened,  # an attempt of the training exists
    attempts.lonely,  # and only one
    training.training,  # it steps, ends, or fails
    stages.sampling,  # sample videos, report, the end
)


def decide(snapshot: Snapshot, backend: TrainingBackend) -> Plan:
    """What to do now. The same snapshot gives the same plan."""
    if snapshot.run.deleting:
        return Plan()
    draft = Draft(status=snapshot.status)
    for policy in POLICIES:
        draft = policy(snapshot, draft)
        if draft.settled:
            break
    status = conditions.observed(draft.status, snapshot.run.generation)
    status = status.model_copy(update={"phase": conditions.phase(status)})
    return Plan(
        creates=tuple(
            manifest for start in draft.starts for manifest in _manifests(snapshot, draft, start, backend)
        ),
        status=None if status.to_wire() == snapshot.status.to_wire() else status,
        deletes=draft.deletes,
        notes=draft.notes,
        wake_seconds=draft.wake_seconds,
    )


def _manifests(snapshot: Snapshot, draft: Draft, start: Start, backend: TrainingBackend) -> list[Manifest]:
    """The run file first: a pod never waits for it."""
    assert snapshot.spec is not None, "nothing is started for an unreadable spec"
    assert draft.status.resolved is not None, "nothing is started before the run is accepted"
    order = Order(
        run=snapshot.run,
        spec=snapshot.spec,
        resolved=draft.status.resolved,
        stage=start.stage,
        attempt=start.attempt,
        keys=CacheKeys(**stages.keys(draft)),
    )
    child = backend.build(order) if start.stage == "train" else stage_job(order)
    return [config_map(order), child]
