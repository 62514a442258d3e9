"""The containers of one pod: their states, processes and probes, and what becomes of them. Used by the pod's own thread."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from devcluster.agent import api as kube
from devcluster.agent import pods, record
from devcluster.agent.containers import Container, Running, Terminated, Waiting, by_name, lost
from devcluster.agent.endings import container_spec, terminated
from devcluster.agent.env import ConfigError
from devcluster.agent.hooks import OOM_ANNOTATION
from devcluster.agent.host import Host
from devcluster.agent.images import ImageError, pull_failed
from devcluster.agent.launch import PodFolder
from devcluster.agent.preparation import Preparation
from devcluster.agent.probes import Health, Prober
from devcluster.agent.process import Exit, Process, StartError
from devcluster.agent.report import Report
from devcluster.agent.resources import ExhaustedError
from devcluster.agent.shim import Request
from devcluster.agent.status import Address
from devcluster.agent.volumes import VolumeError

log = logging.getLogger(__name__)
CONFIG_RETRY = 2.0
START_ERROR_CODE = 128


@dataclass(slots=True)
class Inbox:
    """What other threads tell a worker."""

    exits: queue.SimpleQueue[tuple[str, Exit]] = field(default_factory=queue.SimpleQueue)
    health: queue.SimpleQueue[tuple[str, int, Health]] = field(default_factory=queue.SimpleQueue)
    wake: threading.Event = field(default_factory=threading.Event)


def pod_name(pod: Mapping[str, Any]) -> str:
    """For the log."""
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


class Crew:
    """What runs of a pod, and ran. `pod` gives the last version seen, `write_hosts` comes before each start."""

    def __init__(
        self,
        host: Host,
        folder: PodFolder,
        where: Address,
        found: Iterable[Container],
        preparation: Preparation,
        report: Report,
        inbox: Inbox,
        *,
        uid: str,
        pod: Callable[[], Mapping[str, Any]],
        write_hosts: Callable[[], None],
    ) -> None:
        self.uid, self.folder = uid, folder
        self._host, self._where = host, where
        self._preparation, self._report, self._inbox = preparation, report, inbox
        self._pod, self._write_hosts = pod, write_hosts
        self._containers = by_name(found)
        self._processes: dict[str, Process] = {}
        self._probers: dict[str, Prober] = {}
        self._oom_killed: set[tuple[str, int]] = set()
        self._told: set[tuple[str, str]] = set()

    @property
    def containers(self) -> list[Container]:
        """Their current states."""
        return list(self._containers.values())

    def container(self, name: str) -> Container | None:
        """A container's current state."""
        return self._containers.get(name)

    def process(self, name: str) -> Process | None:
        """A container's process while it runs."""
        return self._processes.get(name)

    @property
    def anything_runs(self) -> bool:
        """Whether a container does."""
        return any(item.running for item in self._containers.values())

    @property
    def serving(self) -> bool:
        """Whether all that run for the length of the pod are ready."""
        serving = [item for item in self._containers.values() if item.main or item.sidecar]
        return all(item.ready and item.running for item in serving)

    def save(self) -> None:
        """Leave the record for an agent after this one."""
        where = self._where
        record.write(self.folder.record, where.pod_ip, where.started_at, self._containers.values())

    def obey_hooks(self, pod: Mapping[str, Any]) -> None:
        """Kill a container as the out-of-memory killer would, once an attempt, when a test asks for it."""
        name = pod["metadata"].get("annotations", {}).get(OOM_ANNOTATION, "")
        process, item = self._processes.get(name), self._containers.get(name)
        if process is not None and item is not None and (name, item.attempt) not in self._oom_killed:
            self._oom_killed.add((name, item.attempt))
            process.kill_out_of_memory()

    def stop_probes(self) -> None:
        """Ask nothing any more."""
        for prober in self._probers.values():
            prober.stop()

    # ---- news from containers

    def take_news(self) -> None:
        """Take in what the processes and the probes have told."""
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
            self.save()
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
                state=terminated(self._pod(), self.folder, item, ended),
                ready=False,
                started=False,
                unhealthy=False,
                retry_at=ended.finished_at + wait,
                back_off=following,
            )
        )
        if item.init and self._containers[name].succeeded:
            self._inbox.wake.set()
        log.info("pod %s: container %s ended with code %d", pod_name(self._pod()), name, ended.code)

    def _set(self, item: Container) -> None:
        self._containers[item.name] = item

    # ---- actions

    def act(self, action: pods.Action, now: float) -> None:
        """Do what the plan says of one container."""
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
        item, spec, now = self._containers[name], container_spec(self._pod(), name), time.time()
        number = item.attempt + 1
        try:
            self._write_hosts()
            request = self._preparation.request(self._pod(), spec, number)
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
        self.save()  # before the start: an agent that dies now must not start it again
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
            container_spec(self._pod(), name),
            self._where.pod_ip,
            lambda health: self._health(name, number, health),
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
        self._report.event(self._pod(), kind, reason, message)
