"""From a snapshot to a plan; pure. This is the page to read first.

What holds for the whole run comes first, in two short lists. Everything else is the one engine of `steps`: the six steps
of a run (`steps.kinds`) are opened, watched and ended by it (`steps.engine`), and what keeps one of them from going on is
found by the checks in `verdicts`, one file a cause. Last, and beside all that, come samples during the training
(`steps.previews`): whatever becomes of them, the sequence does not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mochi_api.runfile import PREPROCESSING, CacheKeys
from mochi_operator import conditions, wire
from mochi_operator.backend.protocol import TrainingBackend
from mochi_operator.build.config import config_map
from mochi_operator.build.job import step_job
from mochi_operator.build.recipe import Recipe
from mochi_operator.cluster import Manifest
from mochi_operator.plan import Draft, Plan, Start
from mochi_operator.policy import acceptance, deadline, ending
from mochi_operator.snapshot import Case, Snapshot
from mochi_operator.steps import engine, previews

DOOR: Sequence[Callable[[Snapshot, Draft], Draft]] = (
    acceptance.first_visit,  # all conditions exist
    ending.finished,  # a run that has ended stays so
    acceptance.readable,  # the spec can be read
    acceptance.leftovers,  # children of an earlier run of this name go first
    acceptance.served,  # the cluster knows PyTorchJob
    acceptance.accepted,  # open choices are made, once
)
RUN: Sequence[Callable[[Case, Draft], Draft]] = (
    deadline.deadline,  # the run as a whole is in time
    engine.steps,  # check, trim, captions, videos, train, sample
    ending.succeeded,  # all steps are over
)


def decide(snapshot: Snapshot, backend: TrainingBackend) -> Plan:
    """What to do now. The same snapshot gives the same plan."""
    if snapshot.run.deleting:
        return Plan()
    draft = Draft(state=snapshot.state, now=snapshot.now)
    for policy in DOOR:
        draft = policy(snapshot, draft)
        if draft.settled:
            return _plan(snapshot, draft, ())
    case = acceptance.case_of(snapshot, draft)
    if case is None:
        return _plan(snapshot, draft, ())
    for step in RUN:
        draft = step(case, draft)
        if draft.settled:
            break
    draft = previews.beside(case, draft)
    made = [manifest for start in draft.starts for manifest in _manifests(case, draft, start, backend)]
    return _plan(snapshot, draft, tuple(made))


def _plan(snapshot: Snapshot, draft: Draft, creates: tuple[Manifest, ...]) -> Plan:
    phase = (
        "Failed" if snapshot.spec is None and draft.state.resolved is None else conditions.phase(draft.state)
    )
    status = wire.write(draft.state, phase=phase, generation=snapshot.run.generation)
    return Plan(
        creates=creates,
        status=None if status == snapshot.written else status,
        outlived=draft.outlived,
        deletes=draft.deletes,
        notes=draft.notes,
        wake_seconds=draft.wake_seconds,
        state=draft.state,
    )


def _manifests(case: Case, draft: Draft, start: Start, backend: TrainingBackend) -> list[Manifest]:
    """The run file first: a pod never waits for it."""
    keys = {name: draft.state.steps[name].items.cache_key for name in PREPROCESSING}
    recipe = Recipe(
        run=case.run,
        spec=case.spec,
        resolved=case.resolved,
        step=start.step,
        attempt=start.attempt,
        keys=CacheKeys(**keys),
        ca_bundle=case.default_ca,
    )
    child = backend.build(recipe) if start.step == "train" else step_job(recipe)
    return [config_map(recipe), child]
