"""The controllers of the cluster: Jobs, PyTorchJobs, the garbage collector, and a queue that holds children back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from mochi_operator.cluster import FINETUNES, JOBS, PODS, PYTORCHJOBS
from mochi_operator.observe import COMPLETION_INDEX
from tests.simulation.complaints import complain
from tests.simulation.kernel import Kernel
from tests.simulation.store import Object, Store, ended, has_condition, owner
from tests.simulation.trainer import index_of

POD = PODS.name
TRACKING = "batch.kubernetes.io/job-tracking"
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


@dataclass
class Admission:
    """What stands in the way of pods."""

    refusal: str = ""
    """`quota`, `webhook` or `policy`."""


class PodMaker:
    """What both controllers of children have in common: making pods, and saying in an Event why they could not."""

    def __init__(self, kernel: Kernel, store: Store, admission: Admission) -> None:
        self.kernel = kernel
        self.store = store
        self.admission = admission

    def make(
        self,
        parent: Object,
        name: str,
        template: Object,
        labels: dict[str, str],
        held: bool,
        annotations: dict[str, str] | None = None,
    ) -> bool:
        """One pod, unless admission refuses or the name is taken."""
        meta = parent["metadata"]
        said = _REFUSALS.get(self.admission.refusal)
        if self.store.get(POD, meta["namespace"], name) is not None:
            said = 'Error creating: pods "{name}" already exists'
        if said is not None:
            self.warn(parent, said.format(name=name))
            return False
        own = template.get("metadata") or {}
        self.store.add(
            {
                "apiVersion": "v1",
                "kind": POD,
                "metadata": {
                    "name": name,
                    "namespace": meta["namespace"],
                    "labels": {**(own.get("labels") or {}), **labels},
                    "annotations": {**(own.get("annotations") or {}), **(annotations or {})},
                    "ownerReferences": [reference(parent)],
                    "finalizers": [TRACKING] if held else [],
                },
                "spec": template["spec"],
                "status": {"phase": "Pending"},
            }
        )
        self.kernel.note("controller", f"makes pod {name}")
        return True

    def warn(self, parent: Object, message: str) -> None:
        """No pod can be made."""
        complain(self.kernel, self.store, parent, "FailedCreate", message, "controller")


_REFUSALS = {
    "quota": 'Error creating: pods "{name}" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4',
    "webhook": 'Error creating: Internal error occurred: failed calling webhook "inject.example": connection refused',
    "policy": 'Error creating: pods "{name}" is forbidden: violates PodSecurity "restricted:latest"',
}


class Reconciler(ABC):
    """A controller that looks at an object of its kind some time after anything about it has changed."""

    kind = ""

    def __init__(self, kernel: Kernel, store: Store, pods: PodMaker) -> None:
        self.kernel = kernel
        self.store = store
        self.pods = pods
        self.down = False
        self._due: set[str] = set()
        store.listeners.append(self._changed)

    def _changed(self, kind: str, old: Object | None, new: Object | None) -> None:
        item = new or old
        assert item is not None
        if kind == self.kind:
            self.soon(item["metadata"]["uid"])
        elif kind == POD and owner(item).get("kind") == self.kind:
            self.soon(owner(item)["uid"])

    def soon(self, uid: str, seconds: float | None = None) -> None:
        """Look at this object soon."""
        if uid not in self._due:
            self._due.add(uid)
            self.kernel.later(self.kernel.between(0.05, 0.8) if seconds is None else seconds, self._turn, uid)

    def _turn(self, uid: str) -> None:
        self._due.discard(uid)
        if self.down:
            return
        found = next((item for item in self.store.all(self.kind) if item["metadata"]["uid"] == uid), None)
        if found is None:
            self.orphaned(uid)
        else:
            self.sync(found)

    def up(self) -> None:
        """The controller is back and looks at everything."""
        self.down = False
        for item in self.store.all(self.kind):
            self.soon(item["metadata"]["uid"])
        for pod in self.store.all(POD):
            if owner(pod).get("kind") == self.kind:
                self.soon(owner(pod)["uid"])

    @abstractmethod
    def sync(self, item: Object) -> None:
        """Bring one object a step further."""

    @abstractmethod
    def orphaned(self, uid: str) -> None:
        """The object is gone."""

    def put(self, item: Object, kind: str, reason: str, message: str = "", truth: str = "True") -> None:
        """One more condition, or an old one changed."""
        found = self.store.fresh(item)
        if found is None:
            return
        status = found.get("status") or {}
        before = [entry for entry in status.get("conditions") or () if entry["type"] != kind]
        entry = {"type": kind, "status": truth, "reason": reason, "message": message or reason}
        now = self.kernel.stamp()
        conditions = [*before, {**entry, "lastTransitionTime": now, "lastProbeTime": now}]
        if truth == "True":
            self.kernel.note("controller", f"{found['metadata']['name']} {kind} {reason}")
        self.store.edit(found, status={**status, "conditions": conditions})


class JobController(Reconciler):
    """`batch/v1`: one pod at a time, or one for each index; failures counted, the end told once all pods have terminated."""

    kind = JOBS.name

    def sync(self, item: Object) -> None:
        pods = self.store.owned(POD, item["metadata"]["uid"])
        for pod in pods:
            if _terminal(pod):
                self.store.release(pod)
        pods = [found for pod in pods if (found := self.store.fresh(pod)) is not None]
        if ended(item):
            return
        if item["spec"].get("suspend"):
            self._suspend(item, pods)
            return
        self._started(item)
        self._work(item, pods)

    def orphaned(self, uid: str) -> None:
        for pod in self.store.owned(POD, uid):
            self.store.release(pod)

    def _suspend(self, item: Object, pods: list[Object]) -> None:
        for pod in pods:
            if not _terminal(pod):
                self.store.delete(pod)
        if not has_condition(item, "Suspended"):
            self.put(item, "Suspended", "JobSuspended", "Job suspended")

    def _started(self, item: Object) -> None:
        if has_condition(item, "Suspended"):
            self.put(item, "Suspended", "JobResumed", "Job resumed", "False")
        found = self.store.fresh(item)
        if found is not None and not (found.get("status") or {}).get("startTime"):
            self.store.edit(found, status={**(found.get("status") or {}), "startTime": self.kernel.stamp()})

    def _work(self, item: Object, pods: list[Object]) -> None:
        counted = self._counted(item, pods)
        active = [pod for pod in pods if not _terminal(pod)]
        live = [pod for pod in active if "deletionTimestamp" not in pod["metadata"]]
        doomed = has_condition(item, "FailureTarget")
        indexes = _indexes(item)
        if not doomed and len(counted["succeeded"]) >= len(indexes or [0]):
            if not active:
                self.put(item, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
            return
        if doomed or len(set(counted["failed"])) > item["spec"].get("backoffLimit", 6):
            self._fail(item, live, doomed=doomed, over=not active)
            return
        if not indexes and not live:
            self._make(item)
        there = {index_of(pod) for pod in live} | set(counted["indexes"])
        for index in indexes:
            if index not in there and not self._make(item, index):
                return

    def _fail(self, item: Object, live: list[Object], *, doomed: bool, over: bool) -> None:
        for pod in live:
            self.store.delete(pod)
        message = "Job has reached the specified backoff limit"
        if not doomed:
            self.put(item, "FailureTarget", "BackoffLimitExceeded", message)
        if over:
            self.put(item, "Failed", "BackoffLimitExceeded", message)

    def _make(self, item: Object, index: str = "") -> bool:
        middle = f"-{index}-" if index else "-"
        name = item["metadata"]["name"] + middle + "".join(self.kernel.rng.choice(ALPHABET) for _ in range(5))
        labels = {"batch.kubernetes.io/job-name": item["metadata"]["name"]}
        notes = {COMPLETION_INDEX: index} if index else {}
        made = self.pods.make(item, name, item["spec"]["template"], labels, held=True, annotations=notes)
        if not made:
            self.soon(item["metadata"]["uid"], self.kernel.between(5, 15))
        return made

    def _counted(self, item: Object, pods: list[Object]) -> dict[str, list[str]]:
        """Pods that have ended, kept in the status as the real one keeps counts."""
        status = item.get("status") or {}
        known: dict[str, list[str]] = status.get("simulatedEnds") or {
            "failed": [],
            "succeeded": [],
            "indexes": [],
        }
        fresh: dict[str, list[str]] = {key: list(uids) for key, uids in known.items()}
        for pod in pods:
            uid, phase = pod["metadata"]["uid"], (pod.get("status") or {}).get("phase")
            if phase == "Succeeded" and uid not in fresh["succeeded"]:
                fresh["succeeded"].append(uid)
                fresh["indexes"].append(index_of(pod))
            elif _counts_as_failed(pod) and uid not in fresh["failed"]:
                fresh["failed"].append(uid)
        if fresh != known:
            told: dict[str, Any] = {"succeeded": len(fresh["succeeded"]), "failed": len(fresh["failed"])}
            if _indexes(item):
                told["completedIndexes"] = ",".join(sorted(set(fresh["indexes"]), key=int))
            self.store.edit(item, status={**status, **told, "simulatedEnds": fresh})
        return fresh


def _indexes(item: Object) -> list[str]:
    """The indexes of an Indexed Job, all of them at once; none of another."""
    body = item["spec"]
    return (
        [str(index) for index in range(body["completions"])]
        if body.get("completionMode") == "Indexed"
        else []
    )


def _counts_as_failed(pod: Object) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase == "Failed" or ("deletionTimestamp" in pod["metadata"] and phase != "Succeeded")


class TrainingOperator(Reconciler):
    """`kubeflow.org/v1` PyTorchJob, worker-only, `restartPolicy: Never`, `cleanPodPolicy: Running`."""

    kind = PYTORCHJOBS.name

    def orphaned(self, uid: str) -> None:
        """Its pods are the garbage collector's."""

    def sync(self, item: Object) -> None:
        pods = self.store.owned(POD, item["metadata"]["uid"])
        if ended(item):
            self._clean(pods)
            return
        if (item["spec"].get("runPolicy") or {}).get("suspend"):
            for pod in pods:
                if not _terminal(pod):
                    self.store.delete(pod)
            if not has_condition(item, "Suspended"):
                self.put(item, "Suspended", "PyTorchJobSuspended")
            return
        if has_condition(item, "Suspended"):
            self.put(item, "Suspended", "PyTorchJobResumed", "", "False")
        if not has_condition(item, "Created"):
            self.put(item, "Created", "PyTorchJobCreated")
        self._work(item, pods)

    def _work(self, item: Object, pods: list[Object]) -> None:
        replicas = item["spec"]["pytorchReplicaSpecs"]["Worker"]
        names = [f"{item['metadata']['name']}-worker-{index}" for index in range(replicas["replicas"])]
        phases = {pod["metadata"]["name"]: (pod.get("status") or {}).get("phase") for pod in pods}
        if any(phase == "Failed" for phase in phases.values()):
            self.put(
                item, "Failed", "PyTorchJobFailed", "PyTorchJob is failed because 1 Worker replica(s) failed."
            )
            return
        if all(phases.get(name) == "Succeeded" for name in names):
            self.put(item, "Succeeded", "PyTorchJobSucceeded")
            return
        for index, name in enumerate(names):
            if name not in phases:
                self._make(item, name, index, replicas["template"])
        if all(phases.get(name) == "Running" for name in names) and not has_condition(item, "Running"):
            self.put(item, "Running", "PyTorchJobRunning")

    def _make(self, item: Object, name: str, index: int, template: Object) -> None:
        labels = {
            "training.kubeflow.org/replica-index": str(index),
            "training.kubeflow.org/replica-type": "worker",
            "training.kubeflow.org/job-name": item["metadata"]["name"],
        }
        if not self.pods.make(item, name, template, labels, held=False):
            self.soon(item["metadata"]["uid"], self.kernel.between(5, 15))

    def _clean(self, pods: list[Object]) -> None:
        for pod in pods:
            if not _terminal(pod):
                self.store.delete(pod)


class GarbageCollector:
    """Deletes what has lost its owner, some time later; also what is made for an owner that is gone already."""

    def __init__(self, kernel: Kernel, store: Store) -> None:
        self.kernel = kernel
        self.store = store
        self.latest = 2.0
        """Longest delay at the moment."""
        store.listeners.append(self._changed)

    def _changed(self, kind: str, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            uid = old["metadata"]["uid"]
            if any(_owned_by(item, uid) for item in self.store.everything()):
                self.kernel.later(self.kernel.between(0.2, self.latest), self._sweep, uid)
        elif old is None:
            self.kernel.later(self.kernel.between(5, 5 + self.latest), self._check, new)

    def _sweep(self, uid: str) -> None:
        for item in self.store.everything():
            if _owned_by(item, uid):
                self._collect(item)

    def _check(self, item: Object) -> None:
        references = item["metadata"].get("ownerReferences")
        if references and not any(self.store.alive(entry["uid"]) for entry in references):
            self._collect(item)

    def _collect(self, item: Object) -> None:
        if self.store.fresh(item) is not None:
            self.kernel.note("gc", f"collects {item['kind']} {item['metadata']['name']}")
            self.store.delete(item)


def reference(parent: Object) -> dict[str, Any]:
    """The controlling owner's reference."""
    return {
        "apiVersion": parent["apiVersion"],
        "kind": parent["kind"],
        "name": parent["metadata"]["name"],
        "uid": parent["metadata"]["uid"],
        "controller": True,
    }


def hold(store: Store, child: Object, *, suspended: bool) -> None:
    """A queue such as Kueue sets or takes back a child's `suspend`."""
    found = store.fresh(child)
    if found is None or ended(found):
        return
    if found["kind"] == JOBS.name:
        store.edit(found, spec={**found["spec"], "suspend": suspended})
    else:
        policy = {**(found["spec"].get("runPolicy") or {}), "suspend": suspended}
        store.edit(found, spec={**found["spec"], "runPolicy": policy})


def children(store: Store, uid: str) -> list[Object]:
    """Jobs and PyTorchJobs that a run owns."""
    return [*store.owned(JOBS.name, uid), *store.owned(PYTORCHJOBS.name, uid)]


def runs(store: Store) -> list[Object]:
    """The MochiFineTunes."""
    return store.all(FINETUNES.name)


def _owned_by(item: Object, uid: str) -> bool:
    return any(entry["uid"] == uid for entry in item["metadata"].get("ownerReferences") or ())


def _terminal(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
