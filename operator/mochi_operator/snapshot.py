"""Everything a decision may look at, read at one moment and frozen.

A `Snapshot` is what was found. A `Case` is a snapshot of a run that has been accepted: its spec can be read, and what
the spec leaves open has been decided. Every policy but those of acceptance is given a case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from mochi_api.heartbeat import Heartbeat
from mochi_api.runfile import Stage
from mochi_api.spec import FineTuneSpec
from mochi_api.status import Resolved
from mochi_operator.state import State

ChildState = Literal["Active", "Succeeded", "Failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Identity of the MochiFineTune, and what its metadata asks for."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleting: bool = False
    sample_now: str = ""
    """The annotation that asks for samples at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRef:
    """One particular object."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EventWarning:
    """The newest Warning event in which a controller or a kubelet says what it cannot do."""

    message: str
    seen: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """What runs one attempt of a step: a Job or the training object, owned by the run."""

    ref: ObjectRef
    step: str
    attempt: int
    created: datetime
    deleting: bool = False
    pods: int = 1
    """How many pods it should have."""
    succeeded: int = 0
    """Pods of a Job that have ended well, those that are gone included."""
    first_done: bool = False
    """Whether pod 0 of an Indexed Job has ended well, also when it is gone."""
    suspended: bool = False
    """True while a queue holds it back; nothing is expected of its pods."""
    state: ChildState = "Active"
    message: str = ""
    finished: datetime | None = None
    warning: EventWarning | None = None
    """Why its controller makes no pod; read only while there are fewer than there should be."""
    blind: bool = False
    """Whether that could not be read this time: what was known of it still holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """One container of a pod, as its kubelet last told."""

    name: str
    waiting_reason: str = ""
    waiting_message: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    exit_code: int | None = None
    """None while it has not ended."""
    ended_reason: str = ""
    """`OOMKilled`, `Error`, `Completed`, `StartError`, `ContainerStatusUnknown`."""
    termination_message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod of a child: our container, found by its name, and whatever else was injected."""

    name: str
    uid: str
    owner_uid: str
    step: str
    attempt: int
    rank: int
    created: datetime
    gone_by: datetime | None = None
    """While it is being deleted: when its kubelet should have removed it (request plus grace period)."""
    node: str = ""
    placed: datetime | None = None
    """When it got its node."""
    phase: str = "Pending"
    ip: str = ""
    unschedulable: str = ""
    """Message of the scheduler while no node fits."""
    message: str = ""
    """Message of the pod itself, such as why it was evicted."""
    disruption: str = ""
    """Reason of the pod's DisruptionTarget condition."""
    disruption_message: str = ""
    main: Container = Container(name="")
    """Ours; without any state while its kubelet has told nothing of it."""
    foreign: tuple[Container, ...] = ()
    """Sidecars and init containers that others injected."""
    warning: EventWarning | None = None
    """What its kubelet cannot do for it; read only while it has a node and does not start."""

    @property
    def starting(self) -> bool:
        """Whether it has a node, and nothing is known of its containers but that they are being made."""
        made = self.main.waiting_reason in ("", "ContainerCreating", "PodInitializing")
        waits = self.main.started is None and not self.ended and self.gone_by is None
        return waits and made and bool(self.node) and not self.unschedulable

    @property
    def running(self) -> bool:
        """Whether our container runs and may go on."""
        return self.main.started is not None and not self.ended and self.gone_by is None

    @property
    def begun(self) -> bool:
        """Whether our container has started, or never will."""
        return self.main.started is not None or self.ended

    @property
    def ended(self) -> bool:
        """Whether our container runs no more, or never will; a sidecar that goes on does not count."""
        return self.main.exit_code is not None or self.phase in ("Failed", "Succeeded")

    @property
    def succeeded(self) -> bool:
        """Whether our container ended well."""
        return self.main.exit_code == 0 or (self.phase == "Succeeded" and self.main.exit_code is None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A child that could not be created, in the API server's words."""

    ref: ObjectRef
    cause: Literal[
        "taken", "leftover", "invalid", "admission", "quota", "forbidden", "unserved", "unavailable"
    ]
    """taken: a foreign object has the name. leftover: an object of a deleted run has it. invalid: the object is at
    fault. unavailable: no answer, or an error of the server or of one of its webhooks."""
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What is known of the sign of life of one pod."""

    pod_uid: str
    heartbeat: Heartbeat | None = None
    """The newest one."""
    age_seconds: float = 0.0
    """Since it came, by a clock of ours that does not jump."""
    silent: int = 0
    """Questions in a row that brought none."""
    log_readable: bool = False
    """Whether the last question reached the pod's log, so that silence there is the pod's own."""
    by_log: bool = False
    """Whether the log is what answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What belongs to a run, or to an earlier one of its name."""

    children: tuple[Child, ...] = ()
    pods: tuple[Pod, ...] = ()
    leftovers: tuple[ObjectRef, ...] = ()
    """Children of a deleted run of the same name that nobody has deleted yet."""
    leftover_pods: tuple[Pod, ...] = ()
    """Pods of a deleted run of the same name."""
    backend_served: bool = True
    """Whether the cluster knows the kind of the training object."""

    def child(self, step: Stage, attempt: int) -> Child | None:
        """The child of one attempt."""
        return next((item for item in self.children if item.step == step and item.attempt == attempt), None)

    def children_of(self, step: Stage) -> list[Child]:
        """The children of one step."""
        return [item for item in self.children if item.step == step]

    def pods_of(self, child: Child) -> tuple[Pod, ...]:
        """The pods that `child` made, in the order of their ranks; of two of one rank the newer."""
        newest: dict[int, Pod] = {}
        for pod in sorted(self.pods, key=lambda pod: pod.created):
            if pod.owner_uid == child.ref.uid:
                newest[pod.rank] = pod
        return tuple(newest[rank] for rank in sorted(newest))


def leading(pods: Sequence[Pod], *, gang: bool) -> Pod | None:
    """The pod whose sign of life counts: rank 0 of a gang, of shards the first that runs; `pods` in the order of ranks."""
    return next((pod for pod in pods if pod.running and (pod.rank == 0 or not gang)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The run, its children and pods, the sign of life of the pod in question, and the clock."""

    run: Run
    spec: FineTuneSpec | None
    """None when it cannot be read; then `spec_problem` says why."""
    spec_problem: str = ""
    state: State
    written: Mapping[str, Any]
    """The status as this version would have written it."""
    now: datetime
    watched_seconds: float
    """For how long this operator has watched the run under a steady clock."""
    default_image: str
    default_ca: str = ""
    """Certificates in PEM for S3, where the run names none."""
    progress_interval: float
    """Shortest time between two writes of progress, in seconds."""
    family: Family = field(default_factory=Family)
    reading: Reading | None = None
    reading_beside: Reading | None = None
    """That of the pod that makes samples beside the training."""
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A snapshot of an accepted run."""

    run: Run
    spec: FineTuneSpec
    resolved: Resolved
    now: datetime
    watched_seconds: float
    default_ca: str
    progress_interval: float
    family: Family
    reading: Reading | None
    reading_beside: Reading | None = None
    refusals: Mapping[str, Refusal]
    """By the name of the child."""

    def age(self, moment: datetime) -> float:
        """Seconds since `moment`."""
        return (self.now - moment).total_seconds()
