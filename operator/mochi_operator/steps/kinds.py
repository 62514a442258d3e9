"""The six steps of a run, and the one beside its training: one value each, all of one type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mochi_api import resolved
from mochi_api.runfile import STAGES, Stage
from mochi_api.status import ConditionType
from mochi_operator.plan import Draft
from mochi_operator.snapshot import Case
from mochi_operator.state import State
from mochi_operator.steps import results

Record = Callable[[Draft, results.Left], Draft | None]
"""Puts what an attempt has left into the draft; None when its outcome holds no result of this step."""


def _one(_case: Case) -> int:
    return 1


def _shards(stage: Stage) -> Callable[[Case], int]:
    return lambda case: resolved.shards(case.spec.preprocessing, stage)


def _replicas(case: Case) -> int:
    return case.resolved.replicas


def _always(_state: State) -> bool:
    return True


def _nothing_begun(state: State) -> bool:
    """A run that an earlier version began, without a check, is not checked in the middle of its way."""
    return not any(state.steps[name].attempts for name in STAGES if name != "check")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKind:
    """What the engine must know of a step; how its child is built is the builders' matter."""

    name: Stage
    condition: ConditionType
    """The condition that tells how it stands."""
    record: Record
    pods: Callable[[Case], int] = _one
    """How many pods an attempt has."""
    gang: bool = False
    """Whether they wait for each other and rank 0 ends last; otherwise each works by itself."""
    required: bool = True
    """Whether the run has failed when the step has."""
    due: Callable[[State], bool] = _always
    """Whether the step is to be done at all, while it has no attempt."""
    may_be_unknown: bool = False
    """Whether an image of an earlier version, which does not know the command, is excused from it."""
    beside: bool = False
    """Whether it is no part of the sequence: whatever becomes of it, the run is not told so."""


CHECK = StepKind(
    name="check", condition="Checked", record=results.checked, due=_nothing_begun, may_be_unknown=True
)
TRIM = StepKind(name="trim", condition="Preprocessed", record=results.embedded, pods=_shards("trim"))
CAPTIONS = StepKind(
    name="captions", condition="Preprocessed", record=results.embedded, pods=_shards("captions")
)
VIDEOS = StepKind(name="videos", condition="Preprocessed", record=results.embedded, pods=_shards("videos"))
TRAIN = StepKind(name="train", condition="TrainingRunning", record=results.trained, pods=_replicas, gang=True)
SAMPLE = StepKind(name="sample", condition="Sampled", record=results.sampled, required=False)
PREVIEW = StepKind(
    name="preview",
    condition="Sampled",
    record=results.previewed,
    required=False,
    may_be_unknown=True,
    beside=True,
)

KINDS: Sequence[StepKind] = (CHECK, TRIM, CAPTIONS, VIDEOS, TRAIN, SAMPLE)
