"""Everything a decision may look at, read at one moment and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from mochi_api.progress import Progress
from mochi_api.spec import FineTuneSpec
from mochi_api.status import FineTuneStatus

ChildState = Literal["Active", "Succeeded", "Failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Identity of the MochiFineTune."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleting: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRef:
    """One particular object."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A Job or the training object of one attempt, owned by the run."""

    ref: ObjectRef
    stage: str
    attempt: int
    created: datetime
    deleting: bool = False
    suspended: bool = False
    """True while a queue holds it back; nothing is expected of its pods."""
    state: ChildState = "Active"
    reason: str = ""
    message: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    warning: str = ""
    """Why its controller could make no pod: the newest Warning event, read only while there are no pods."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod of a child, with its one container."""

    name: str
    owner_uid: str
    stage: str
    attempt: int
    rank: int
    created: datetime
    deleting: bool = False
    phase: str = "Pending"
    ip: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""
    """Message of the scheduler while no node fits."""
    message: str = ""
    """Message of the pod itself, such as why it was evicted."""
    disruption: str = ""
    """Reason of the pod's DisruptionTarget condition."""
    disruption_message: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    exit_code: int | None = None
    terminated_reason: str = ""
    termination_message: str = ""

    @property
    def running(self) -> bool:
        """Whether its container runs."""
        return (
            self.phase == "Running"
            and self.started is not None
            and self.exit_code is None
            and not self.deleting
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacle:
    """A child that could not be created."""

    ref: ObjectRef
    reason: Literal["Taken", "Leftover", "Refused", "Forbidden"]
    """Taken: a foreign object has the name. Leftover: an object of a deleted run has it. Refused: the object is at
    fault. Forbidden: quota, admission or missing rights, which may change."""
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The run, its children and pods, the progress of training, and the clock."""

    run: Run
    spec: FineTuneSpec | None
    """None when it cannot be read; then `spec_problem` says why."""
    spec_problem: str = ""
    status: FineTuneStatus
    now: datetime
    default_image: str
    progress_interval: float
    """Shortest time between two writes of progress, in seconds."""
    jobs: Mapping[str, Child] = field(default_factory=dict)
    """Jobs of the run by stage."""
    attempts: Mapping[int, Child] = field(default_factory=dict)
    """Training objects of the run by attempt."""
    pods: tuple[Pod, ...] = ()
    leftovers: tuple[ObjectRef, ...] = ()
    """Children of a deleted run of the same name."""
    backend_served: bool = True
    """Whether the cluster knows the kind of the training object."""
    progress: Progress | None = None
    progress_misses: int = 0
    """How often in a row rank 0 did not answer."""
    obstacles: tuple[Obstacle, ...] = ()

    def pods_of(self, child: Child) -> tuple[Pod, ...]:
        """The pods that `child` made."""
        return tuple(pod for pod in self.pods if pod.owner_uid == child.ref.uid)
