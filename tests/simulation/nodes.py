"""Nodes, scheduler and kubelets: where pods run, what they report, and all the ways in which a node takes them away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from mochi_operator.cluster import CONFIGMAPS, PODS
from tests.simulation.complaints import complain
from tests.simulation.kernel import Kernel
from tests.simulation.store import Object, Store

POD = PODS.name
GPU = "nvidia.com/gpu"
IMAGE_RETRY_SECONDS = 20.0
Lost = Callable[[Object, str], None]
"""Called with a pod that is gone, and the phase it was in: what it could have told is gone with it."""


class Program(Protocol):
    """What runs in the main container."""

    def sigterm(self, grace: float) -> None:
        """Asked to end within so long."""

    def kill(self) -> None:
        """Ended at once; it says nothing more."""


Start = Callable[["Runtime"], Program]
Hurt = Callable[[Object, bool], None]
"""Called with a pod that the cluster takes away; True when its program was killed without a word."""


@dataclass
class Node:
    """A machine and its kubelet."""

    name: str
    gpus: int
    reachable: bool = True
    """Whether the kubelet talks to the API server."""
    cordoned: bool = False
    dead_for_good: bool = False
    """Nobody brings it back, and nobody deletes its Node object."""
    exists: bool = True


@dataclass
class Runtime:
    """What is true of a bound pod, whether or not the API server knows it."""

    pod: Object
    node: Node
    ip: str
    state: dict[str, Any] = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    """State of the main container, as in `containerStatuses`."""
    program: Program | None = None
    alive: bool = False
    """Whether the main container really runs."""
    phase: str = "Pending"
    sidecar: str = ""
    """`ordinary`, `native` or none."""
    sidecar_alive: bool = False
    terminating: bool = False
    gone: bool = False
    was_lost: bool = False
    """Whether its node has ever been away: nobody can wait for such a pod."""
    words: dict[str, Any] = field(default_factory=dict)
    """More of the pod's status: reason, message, conditions."""

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])


@dataclass
class Weather:
    """What the nodes suffer from at the moment."""

    image_trouble: bool = False
    slow_start: float = 2.0
    sidecar: str = ""
    slow_term: float = 0.0
    """Seconds that a pod takes longer to go, beyond its program's end."""
    collector: float = 0.0
    """When set, a finished pod is removed after at most so many seconds."""


class Nodes:
    """Scheduler, kubelets and the pod garbage collector."""

    def __init__(self, kernel: Kernel, store: Store, start: Start, hurt: Hurt, lost: Lost) -> None:
        self.hurt = hurt
        self.lost = lost
        self.kernel = kernel
        self.store = store
        self.weather = Weather()
        self.nodes = [Node("cpu-0", 0), Node("gpu-0", 2), Node("gpu-1", 2)]
        self.runtimes: dict[str, Runtime] = {}
        """By uid of the pod."""
        self._start = start
        self._ips = 0
        store.listeners.append(self._changed)

    # What others ask.

    def running(self) -> list[Runtime]:
        """Pods whose program really runs."""
        return [item for item in self.runtimes.values() if item.alive]

    def bound(self) -> list[Runtime]:
        """Pods that are on a node and not gone."""
        return [item for item in self.runtimes.values() if not item.gone]

    def at(self, ip: str) -> Runtime | None:
        """The pod of this address, if it can be reached."""
        found = next((item for item in self.running() if item.ip == ip), None)
        return found if found is not None and found.node.reachable else None

    def named(self, namespace: str, name: str) -> Runtime | None:
        """The runtime of the pod that has this name now."""
        pod = self.store.get(POD, namespace, name)
        return None if pod is None else self.runtimes.get(pod["metadata"]["uid"])

    # The scheduler.

    def _changed(self, kind: str, old: Object | None, new: Object | None) -> None:
        if kind != POD:
            return
        if new is None:
            assert old is not None
            self._removed(old)
        elif old is None:
            self.kernel.later(self.kernel.between(0.05, 1.0), self._schedule, new)
        elif "deletionTimestamp" in new["metadata"]:
            self._deleted(new)

    def _removed(self, pod: Object) -> None:
        runtime = self.runtimes.get(pod["metadata"]["uid"])
        if runtime is not None:
            runtime.gone = True
            self._stop(runtime)
            self.lost(pod, str((pod.get("status") or {}).get("phase")))

    def _schedule(self, pod: Object) -> None:
        found = self.store.fresh(pod)
        if found is None or found["spec"].get("nodeName") or "deletionTimestamp" in found["metadata"]:
            return
        wanted = _gpus(found)
        node = next((item for item in self.nodes if self._fits(item, wanted)), None)
        if node is None:
            self._unschedulable(found)
            return
        self._ips += 1
        bound = self.store.edit(found, spec={**found["spec"], "nodeName": node.name}, status=_scheduled())
        assert bound is not None
        runtime = Runtime(pod=bound, node=node, ip=f"10.1.{self._ips // 250}.{self._ips % 250}")
        runtime.sidecar = self.weather.sidecar
        self.runtimes[runtime.uid] = runtime
        self.kernel.note("scheduler", f"{runtime.name} on {node.name}")
        self.kernel.later(self.kernel.between(0.2, 2.0), self._create, runtime)

    def _fits(self, node: Node, wanted: int) -> bool:
        if not node.exists or node.cordoned or not node.reachable or (wanted == 0) != (node.gpus == 0):
            return False
        return self._used(node) + wanted <= node.gpus

    def _used(self, node: Node) -> int:
        return sum(
            _gpus(item.pod)
            for item in self.runtimes.values()
            if item.node is node and not item.gone and item.phase not in ("Succeeded", "Failed")
        )

    def _unschedulable(self, pod: Object) -> None:
        message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        status = {
            "phase": "Pending",
            "conditions": [{**condition, "lastTransitionTime": self.kernel.stamp()}],
        }
        if not (pod.get("status") or {}).get("conditions"):
            self.store.edit(pod, status=status)
        self.kernel.later(self.kernel.between(3, 6), self._schedule, pod)

    # The kubelet.

    def _create(self, runtime: Runtime) -> None:
        """Volumes, then the image, then the program."""
        if runtime.gone or runtime.terminating:
            return
        if not runtime.node.reachable or not self._mounted(runtime):
            self.kernel.later(5.0, self._create, runtime)
            return
        if self.weather.image_trouble:
            again = runtime.state.get("waiting", {}).get("reason") == "ErrImagePull"
            reason = "ImagePullBackOff" if again else "ErrImagePull"
            self._waiting(runtime, reason, "pull of trainer image: registry answered 503")
            self.kernel.later(IMAGE_RETRY_SECONDS, self._create, runtime)
            return
        if runtime.phase == "Pending" and not runtime.words.get("pulled"):
            runtime.words["pulled"] = True
            self._waiting(runtime, "ContainerCreating", "")
            self.kernel.later(self.kernel.between(0.2, self.weather.slow_start), self._create, runtime)
            return
        self._run(runtime)

    def _mounted(self, runtime: Runtime) -> bool:
        meta = runtime.pod["metadata"]
        for volume in runtime.pod["spec"].get("volumes") or ():
            name = (volume.get("configMap") or {}).get("name")
            if name and self.store.get(CONFIGMAPS.name, meta["namespace"], name) is None:
                self._waiting(runtime, "ContainerCreating", "")
                said = f'MountVolume.SetUp failed for volume "run" : configmap "{name}" not found'
                complain(self.kernel, self.store, runtime.pod, "FailedMount", said, "kubelet")
                return False
        return True

    def _waiting(self, runtime: Runtime, reason: str, message: str) -> None:
        state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        if runtime.state != state or runtime.phase == "Pending":
            runtime.state = state
            self.publish(runtime)

    def _run(self, runtime: Runtime) -> None:
        runtime.phase = "Running"
        runtime.alive = True
        runtime.sidecar_alive = bool(runtime.sidecar)
        runtime.state = {"running": {"startedAt": self.kernel.stamp()}}
        self.kernel.note("kubelet", f"{runtime.name} runs")
        runtime.program = self._start(runtime)
        self.publish(runtime)

    def exited(self, runtime: Runtime, code: int, message: str, reason: str = "") -> None:
        """The main container has ended."""
        if not runtime.alive:
            return
        if code == 137 and not message and reason != "OOMKilled":
            self.hurt(runtime.pod, True)
        runtime.alive = False
        started = runtime.state.get("running", {}).get("startedAt", self.kernel.stamp())
        runtime.state = {
            "terminated": {
                "exitCode": code,
                "reason": reason or ("Error" if code else "Completed"),
                "message": message,
                "startedAt": started,
                "finishedAt": self.kernel.stamp(),
            }
        }
        self.kernel.note("kubelet", f"{runtime.name} exits {code}")
        if runtime.sidecar != "ordinary" or runtime.terminating:
            runtime.sidecar_alive = False
            runtime.phase = "Failed" if code else "Succeeded"
        self.publish(runtime)
        if runtime.terminating:
            self._finish_termination(runtime)
        elif self.weather.collector and runtime.phase in ("Failed", "Succeeded"):
            self.hurt(runtime.pod, False)
            self.kernel.later(
                self.kernel.between(0.1, self.weather.collector), self.store.delete, runtime.pod
            )

    def publish(self, runtime: Runtime) -> None:
        """Write what is true into the pod's status, if the kubelet can."""
        if runtime.gone or not runtime.node.reachable:
            return
        main = {
            "name": runtime.pod["spec"]["containers"][0]["name"],
            "state": runtime.state,
            "restartCount": 0,
        }
        status: dict[str, Any] = {"phase": runtime.phase, "conditions": _conditions(runtime)}
        status["containerStatuses"] = [*_sidecar(runtime, "ordinary"), main]
        if runtime.sidecar == "native":
            status["initContainerStatuses"] = _sidecar(runtime, "native")
        if runtime.phase != "Pending":
            status["podIP"] = runtime.ip
        status |= {key: text for key, text in runtime.words.items() if key in ("reason", "message")}
        self.store.edit(runtime.pod, status=status)

    def _deleted(self, pod: Object) -> None:
        """DELETE was called on a bound pod: SIGTERM, the grace period, SIGKILL."""
        runtime = self.runtimes.get(pod["metadata"]["uid"])
        if runtime is None or runtime.terminating or runtime.gone:
            return
        if not runtime.node.reachable:
            return
        runtime.terminating = True
        grace = float(pod["metadata"].get("deletionGracePeriodSeconds", 30))
        if runtime.alive and runtime.program is not None:
            self.kernel.note("kubelet", f"{runtime.name} gets SIGTERM")
            runtime.program.sigterm(grace)
            self.kernel.later(grace, self._sigkill, runtime)
        else:
            self._sidecars_end(runtime)

    def _sigkill(self, runtime: Runtime) -> None:
        if runtime.alive and runtime.program is not None and runtime.node.reachable:
            runtime.program.kill()
            self.exited(runtime, 137, "", "Error")

    def _sidecars_end(self, runtime: Runtime) -> None:
        if runtime.sidecar_alive:
            runtime.sidecar_alive = False
            code = runtime.state.get("terminated", {}).get("exitCode", 0)
            runtime.phase = "Failed" if code else "Succeeded"
        elif runtime.phase == "Pending":
            runtime.phase = "Failed"
        self.publish(runtime)
        self._finish_termination(runtime)

    def _finish_termination(self, runtime: Runtime) -> None:
        wait = self.kernel.between(0.05, 1.0) + self.weather.slow_term
        self.kernel.later(wait, self._gone, runtime)

    def _gone(self, runtime: Runtime) -> None:
        if runtime.gone or not runtime.node.reachable:
            return
        self.kernel.note("kubelet", f"{runtime.name} is gone")
        self.store.remove(runtime.pod)

    def _stop(self, runtime: Runtime) -> None:
        """The container is no more, and nobody hears of it."""
        if runtime.alive and runtime.program is not None:
            runtime.program.kill()
        runtime.alive = False
        runtime.sidecar_alive = False

    # How a node or its neighbours take pods away.

    def disrupt(self, runtime: Runtime, reason: str, message: str) -> None:
        """Eviction, preemption, drain: a condition that says so, then DELETE."""
        if runtime.gone or runtime.terminating:
            return
        self._mark(runtime, reason, message)
        self.store.delete(runtime.pod)

    def press(self, runtime: Runtime) -> None:
        """The kubelet evicts for memory, or ends the pod because the machine shuts down: Failed, but not deleted."""
        if runtime.gone or runtime.terminating or not runtime.node.reachable or runtime.phase != "Running":
            return
        runtime.words |= {"reason": "Evicted", "message": "The node was low on resource: memory."}
        self._mark(runtime, "TerminationByKubelet", "The node was low on resource: memory.")
        if runtime.program is not None:
            runtime.program.kill()
        runtime.phase, runtime.sidecar_alive = "Failed", False
        if runtime.alive:
            runtime.sidecar = "" if runtime.sidecar == "ordinary" else runtime.sidecar
            self.exited(runtime, 137, "")
        self.publish(runtime)

    def remove_by_hand(self, runtime: Runtime) -> None:
        """`kubectl delete pod`."""
        self.kernel.note("user", f"deletes pod {runtime.name}")
        self.hurt(runtime.pod, False)
        self.store.delete(runtime.pod)

    def _mark(self, runtime: Runtime, reason: str, message: str) -> None:
        self.hurt(runtime.pod, False)
        runtime.words["disruption"] = {"reason": reason, "message": message}
        self.kernel.note("nodes", f"{runtime.name}: {reason}")
        if runtime.node.reachable:
            self.publish(runtime)
            return
        found = self.store.fresh(runtime.pod)
        if found is not None:
            before = [
                c
                for c in (found.get("status") or {}).get("conditions") or ()
                if c["type"] != "DisruptionTarget"
            ]
            status = {**(found.get("status") or {}), "conditions": [*before, _disruption(runtime)]}
            self.store.edit(found, status=status)

    def lose(self, node: Node, *, power: bool, tolerated: float) -> None:
        """A node stops talking; with `power` its programs end, otherwise they run on unseen."""
        node.reachable = False
        self.kernel.note("nodes", f"{node.name} is lost ({'power' if power else 'network'})")
        for runtime in self.bound():
            if runtime.node is node:
                runtime.was_lost = True
                self.hurt(runtime.pod, False)
                if power:
                    self._stop(runtime)
        self.kernel.later(tolerated, self._taint_evicts, node)

    def _told_phase(self, runtime: Runtime) -> str:
        """The phase as the API server knows it; the kubelet may know better, but cannot say so."""
        found = self.store.fresh(runtime.pod)
        return "" if found is None else str((found.get("status") or {}).get("phase"))

    def _taint_evicts(self, node: Node) -> None:
        if node.reachable:
            return
        for runtime in self.bound():
            if runtime.node is node and self._told_phase(runtime) in ("Pending", "Running"):
                self._mark(
                    runtime, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"
                )
                self.store.delete(runtime.pod)

    def back(self, node: Node) -> None:
        """The node talks again: what was deleted meanwhile ends, what was killed is reported."""
        if node.reachable or not node.exists or node.dead_for_good:
            return
        node.reachable = True
        self.kernel.note("nodes", f"{node.name} is back")
        for runtime in self.bound():
            if runtime.node is node:
                self._reconnect(runtime)

    def _reconnect(self, runtime: Runtime) -> None:
        if runtime.phase == "Running" and not runtime.alive and "running" in runtime.state:
            runtime.alive = True
            self.exited(runtime, 137, "", "Error")
        else:
            self.publish(runtime)
        found = self.store.fresh(runtime.pod)
        if found is not None and "deletionTimestamp" in found["metadata"]:
            if runtime.terminating:
                self._finish_termination(runtime)
            else:
                self._deleted(found)

    def collect(self, node: Node) -> None:
        """Somebody deletes the Node object: the pod garbage collector removes its pods by force."""
        if node.reachable:
            return
        node.exists = False
        self.kernel.note("nodes", f"{node.name} is deleted")
        for runtime in self.bound():
            if runtime.node is node:
                self._stop(runtime)
                self._collect_from(runtime)

    def _collect_from(self, runtime: Runtime) -> None:
        """A pod that had not ended has failed; one that had is only removed."""
        if self._told_phase(runtime) in ("Pending", "Running"):
            self._mark(runtime, "DeletionByPodGC", "PodGC: node no longer exists")
            found = self.store.fresh(runtime.pod)
            if found is not None:
                self.store.edit(found, status={**(found.get("status") or {}), "phase": "Failed"})
        self.store.remove(runtime.pod)

    def replace(self, node: Node) -> None:
        """A new machine takes the place of one that is deleted or stays dead."""
        if not node.exists or node.dead_for_good:
            fresh = Node(f"{node.name}x", node.gpus)
            self.nodes.append(fresh)
            self.kernel.note("nodes", f"{fresh.name} joins")


def _gpus(pod: Object) -> int:
    return sum(
        int(((container.get("resources") or {}).get("limits") or {}).get(GPU, 0))
        for container in pod["spec"]["containers"]
    )


def _scheduled() -> dict[str, Any]:
    return {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}


def _conditions(runtime: Runtime) -> list[dict[str, Any]]:
    found = [{"type": "PodScheduled", "status": "True"}]
    return [*found, _disruption(runtime)] if "disruption" in runtime.words else found


def _disruption(runtime: Runtime) -> dict[str, Any]:
    return {"type": "DisruptionTarget", "status": "True", **runtime.words["disruption"]}


def _sidecar(runtime: Runtime, kind: str) -> list[dict[str, Any]]:
    """Status of the injected proxy; a kubelet sorts statuses by name, and `istio-proxy` comes before ours."""
    if runtime.sidecar != kind:
        return []
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-01-01T00:00:00Z"}}
    waiting = {"waiting": {"reason": "PodInitializing"}}
    state = running if runtime.sidecar_alive else waiting if runtime.phase == "Pending" else ended
    return [{"name": "istio-proxy", "state": state, "restartCount": 0}]
