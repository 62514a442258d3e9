"""One pod's life on this node: a thread that compares what should be with what is, acts, and reports."""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from devcluster.agent import api as kube
from devcluster.agent import cluster, launch, logs, pods, record, status
from devcluster.agent.containers import (
    LOST,
    Container,
    Running,
    Terminated,
    Waiting,
    by_name,
    from_status,
    lost,
)
from devcluster.agent.env import ConfigError
from devcluster.agent.hooks import OOM_ANNOTATION
from devcluster.agent.host import Host
from devcluster.agent.hosts import Endpoint
from devcluster.agent.images import ImageError, pull_failed
from devcluster.agent.preparation import Preparation
from devcluster.agent.probes import Health, Prober
from devcluster.agent.process import ClosedError, Exit, Process, StartError, read_exit
from devcluster.agent.report import Report, final
from devcluster.agent.resources import ExhaustedError
from devcluster.agent.shim import Request
from devcluster.agent.volumes import VolumeError

log = logging.getLogger(__name__)
CONFIG_RETRY = 2.0
SYNC_SECONDS = 30.0
ERROR_RETRY = 1.0
START_ERROR_CODE = 128


@dataclass(slots=True)
class Inbox:
    """What other threads tell a worker."""

    exits: queue.SimpleQueue[tuple[str, Exit]] = field(default_factory=queue.SimpleQueue)
    health: queue.SimpleQueue[tuple[str, int, Health]] = field(default_factory=queue.SimpleQueue)
    wake: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Runs one pod. `update` and `forget` may be called from any thread; all else happens in its own."""

    def __init__(self, host: Host, pod: Mapping[str, Any], ended: Callable[[str], None]) -> None:
        self.uid: str = pod["metadata"]["uid"]
        self.folder = launch.PodFolder(host.state / "pods" / self.uid)
        self._host = host
        self._pod = pod
        self._ended = ended
        self._gone = False
        self._halted = False
        self._inbox = Inbox()
        self._processes: dict[str, Process] = {}
        self._probers: dict[str, Prober] = {}
        self._oom_killed: set[tuple[str, int]] = set()
        self._told: set[tuple[str, str]] = set()
        self._namespace = cluster.Namespace(host.api, pod["metadata"]["namespace"])
        self._has_address = not final(pod)
        self._load()
        self._thread = threading.Thread(target=self._run, name=f"pod {pod['metadata']['name']}", daemon=True)

    # ---- for other threads

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def update(self, pod: Mapping[str, Any]) -> None:
        """The API server has a new version of the pod."""
        self._pod = pod
        self._inbox.wake.set()

    def forget(self) -> None:
        """The API server has the pod no more: end it at once."""
        self._gone = True
        self._inbox.wake.set()

    def halt(self) -> None:
        """The agent is stopping: do nothing more; what became of the containers is told by the next agent."""
        self._halted = True
        self._inbox.wake.set()

    @property
    def pod(self) -> Mapping[str, Any]:
        """The last version seen."""
        return self._pod

    def container(self, name: str) -> Container | None:
        """A container's current state."""
        return self._containers.get(name)

    def process(self, name: str) -> Process | None:
        """A container's process while it runs."""
        return self._processes.get(name)

    @property
    def endpoint(self) -> Endpoint:
        """The pod as Services see it."""
        metadata, spec = self._pod["metadata"], self._pod["spec"]
        serving = [item for item in self._containers.values() if item.main or item.sidecar]
        stopping = self._gone or "deletionTimestamp" in metadata
        return Endpoint(
            namespace=metadata["namespace"],
            name=metadata["name"],
            ip=self._where.pod_ip,
            ready=not stopping and all(item.ready and item.running for item in serving),
            labels=metadata.get("labels", {}),
            hostname=launch.hostname(self._pod),
            subdomain=spec.get("subdomain", ""),
        )

    @property
    def has_address(self) -> bool:
        """Whether the pod's address is still its own: a pod that has ended keeps it in its status only."""
        return self._has_address

    def write_hosts(self) -> None:
        """Bring the pod's /etc/hosts up to date."""
        self._preparation.write_hosts(self.endpoint, self._pod)

    # ---- the loop

    def _run(self) -> None:
        while not self._halted:
            try:
                wait = self._sync()
            except ClosedError:
                return
            except (kube.ApiError, OSError) as error:
                log.warning("pod %s: %s; trying again", self._name, error)
                wait = ERROR_RETRY
            except Exception:  # a bug, or a pod no kubelet was ever given: the other pods go on
                log.exception("pod %s is not handled; trying again in %.0f s", self._name, SYNC_SECONDS)
                wait = SYNC_SECONDS
            if wait is None:
                self._ended(self.uid)
                return
            self._inbox.wake.wait(wait)
            self._inbox.wake.clear()

    def _sync(self) -> float | None:
        """One comparison; returns seconds until the next, None at the end of the pod."""
        self._take_news()
        pod, now = self._pod, time.time()
        stop = self._stop(pod, now)
        plan = pods.Plan()
        if stop is not None or not final(pod):
            plan = pods.plan(pod, list(self._containers.values()), now, stop)
        for action in plan.actions:
            self._act(action, now)
        if plan.actions:
            self._save()
        if stop is not None and stop.reason is pods.StopReason.GONE:
            return self._bury()
        self._obey_hooks(pod)
        if self._anything_runs:
            self._preparation.renew(pod, now)
        acting = stop if stop is not None and now >= stop.not_before else None
        self._report.send(pod, list(self._containers.values()), acting)
        if not self._anything_runs:
            self._settle(pod, acting)
        return max(0.0, min(plan.wake_at - time.time(), SYNC_SECONDS)) if plan.wake_at else SYNC_SECONDS

    def _settle(self, pod: Mapping[str, Any], stop: pods.Stop | None) -> None:
        """What is due when nothing runs (any more)."""
        policy = pod["spec"].get("restartPolicy", "Always")
        if status.phase(list(self._containers.values()), policy, stop) in status.FINAL:
            self._release_address()
        if stop is not None and stop.reason is pods.StopReason.DELETED:
            self._report.confirm_deletion(pod)

    def _release_address(self) -> None:
        if self._has_address:
            self._has_address = False
            self._host.addresses.give_back(self.uid)
            self._host.address_freed()

    @property
    def _name(self) -> str:
        return f"{self._pod['metadata']['namespace']}/{self._pod['metadata']['name']}"

    @property
    def _anything_runs(self) -> bool:
        return any(item.running for item in self._containers.values())

    def _stop(self, pod: Mapping[str, Any], now: float) -> pods.Stop | None:
        if self._gone:
            return pods.Stop(reason=pods.StopReason.GONE, message="", grace=0.0)
        return pods.stop_order(pod, now, self._where.started_at)

    def _obey_hooks(self, pod: Mapping[str, Any]) -> None:
        """Kill a container as the out-of-memory killer would, once an attempt, when a test asks for it."""
        name = pod["metadata"].get("annotations", {}).get(OOM_ANNOTATION, "")
        process, item = self._processes.get(name), self._containers.get(name)
        if process is not None and item is not None and (name, item.attempt) not in self._oom_killed:
            self._oom_killed.add((name, item.attempt))
            process.kill_out_of_memory()

    # ---- state on disk

    def _load(self) -> None:
        now, known = time.time(), record.read(self.folder.record)
        if known is None:
            found = from_status(self._pod, now)
        else:
            found = [self._survivor(item, now) for item in known.containers]
        ip = self._take_address(known) if self._has_address else self._pod["status"].get("podIP", "")
        started_at = known.started_at if known else now
        self._where = status.Address(pod_ip=ip, host_ip=self._host.node_ip, started_at=started_at)
        self._containers = by_name(found)
        self._save()
        self._preparation = Preparation(self._host, self.folder, self._where, self._namespace)
        self._preparation.write_etc(self._pod)
        self._report = Report(self._host, self._where)

    def _take_address(self, known: record.Record | None) -> str:
        if known is not None:
            self._host.addresses.reserve(self.uid, known.ip)
        return self._host.addresses.take(self.uid)[0]

    def _survivor(self, item: Container, now: float) -> Container:
        ended = read_exit(self.folder.result(item.name, item.attempt)) if item.running else None
        return lost(item, now, self._terminated(item, ended) if ended else None)

    def _save(self) -> None:
        where = self._where
        record.write(self.folder.record, where.pod_ip, where.started_at, self._containers.values())

    # ---- news from containers

    def _take_news(self) -> None:
        changed = False
        while not self._inbox.health.empty():
            name, attempt, health = self._inbox.health.get()
            item = self._containers[name]
            if item.attempt == attempt and item.running:
                self._set(
                    replace(item, ready=health.ready, started=health.started, unhealthy=health.unhealthy)
                )
                changed = True
                if health.unhealthy and not item.unhealthy:
                    self._event(
                        "Warning", "Unhealthy", f"container {name}: {health.message} failed, restarting it"
                    )
        while not self._inbox.exits.empty():
            self._take_exit(*self._inbox.exits.get())
            changed = True
        if changed:
            self._save()
            self._host.endpoints_changed()

    def _take_exit(self, name: str, ended: Exit) -> None:
        item = self._containers[name]
        self._processes.pop(name, None)
        self._host.gpus.give_back((self.uid, name))
        prober = self._probers.pop(name, None)
        if prober is not None:
            prober.stop()
        wait, following = pods.next_back_off(item, ended.finished_at - ended.started_at, self._host.back_off)
        self._set(
            replace(
                item,
                state=self._terminated(item, ended),
                ready=False,
                started=False,
                unhealthy=False,
                retry_at=ended.finished_at + wait,
                back_off=following,
            )
        )
        if item.init and self._containers[name].succeeded:
            self._inbox.wake.set()
        log.info("pod %s: container %s ended with code %d", self._name, name, ended.code)

    def _terminated(self, item: Container, ended: Exit) -> Terminated:
        spec = self._spec(item.name)
        message = logs.termination_message(
            self.folder.termination(item.name, item.attempt),
            self.folder.log(item.name, item.attempt),
            spec.get("terminationMessagePolicy", "File"),
            ended.code,
        )
        reason = "OOMKilled" if ended.out_of_memory else LOST if ended.lost else ""
        return Terminated(
            code=ended.code,
            signal=ended.signal,
            reason=reason,
            message=message,
            started_at=ended.started_at,
            finished_at=ended.finished_at,
        )

    def _set(self, item: Container) -> None:
        self._containers[item.name] = item

    def _spec(self, name: str) -> Mapping[str, Any]:
        spec = self._pod["spec"]
        return next(
            item
            for key in ("initContainers", "containers")
            for item in spec.get(key, ())
            if item["name"] == name
        )

    # ---- actions

    def _act(self, action: pods.Action, now: float) -> None:
        if action.verb is pods.Verb.START:
            self._start(action.container)
            return
        process, item = self._processes.get(action.container), self._containers[action.container]
        if process is None:
            self._set(lost(item, now))
        elif action.verb is pods.Verb.KILL:
            process.kill()
        else:
            self._event("Normal", "Killing", f"Stopping container {item.name}")
            process.terminate()
            self._set(replace(item, signalled_at=now))

    def _start(self, name: str) -> None:
        item, spec, now = self._containers[name], self._spec(name), time.time()
        number = item.attempt + 1
        try:
            self.write_hosts()
            request = self._preparation.request(self._pod, spec, number)
        except ImageError as error:
            waiting, pause = pull_failed(item.state, spec.get("image", ""), error)
            self._wait(item, waiting, now + pause, "Failed")
        except ConfigError as error:
            self._wait(item, Waiting("CreateContainerConfigError", str(error)), now + CONFIG_RETRY, "Failed")
        except (VolumeError, ExhaustedError, kube.ApiError, OSError) as error:
            self._wait(item, Waiting("ContainerCreating", str(error)), now + CONFIG_RETRY, "FailedMount")
        else:
            self._launch(item, number, request)

    def _launch(self, item: Container, number: int, request: Request) -> None:
        name = item.name
        previous = item.terminated or item.last
        running = replace(item, attempt=number, last=previous, state=Running(time.time()), signalled_at=None)
        self._set(running)
        self._save()  # before the start: an agent that dies now must not start it again
        try:
            process = self._host.launcher.start(request, lambda ended: self._exited(name, ended))
        except StartError as error:
            now = time.time()
            ended = Terminated(
                code=START_ERROR_CODE,
                reason="StartError",
                message=str(error),
                started_at=now,
                finished_at=now,
            )
            wait, following = pods.next_back_off(item, 0.0, self._host.back_off)
            self._set(replace(running, state=ended, retry_at=now + wait, back_off=following))
            return
        prober = Prober(
            self._spec(name), self._where.pod_ip, lambda health: self._health(name, number, health)
        )
        self._processes[name], self._probers[name] = process, prober
        health = prober.health
        self._set(
            replace(running, state=Running(process.started_at), ready=health.ready, started=health.started)
        )
        prober.start()
        if item.sidecar:  # the next one's turn, now that it has started
            self._inbox.wake.set()
        self._host.endpoints_changed()

    def _exited(self, name: str, ended: Exit) -> None:
        self._inbox.exits.put((name, ended))
        self._inbox.wake.set()

    def _health(self, name: str, number: int, health: Health) -> None:
        self._inbox.health.put((name, number, health))
        self._inbox.wake.set()

    def _wait(self, item: Container, waiting: Waiting, retry_at: float, event: str) -> None:
        """Let a container wait; why is told by an Event, each reason once."""
        if (event, waiting.message) not in self._told:
            self._told.add((event, waiting.message))
            self._event("Warning", event, waiting.message)
        last = item.terminated or item.last
        self._set(replace(item, state=waiting, last=last, retry_at=retry_at))
        self._inbox.wake.set()

    def _event(self, kind: str, reason: str, message: str) -> None:
        self._report.event(self._pod, kind, reason, message)

    def _bury(self) -> float | None:
        if self._anything_runs:
            return SYNC_SECONDS
        for prober in self._probers.values():
            prober.stop()
        shutil.rmtree(self.folder.path, ignore_errors=True)
        self._release_address()
        self._host.endpoints_changed()
        return None
