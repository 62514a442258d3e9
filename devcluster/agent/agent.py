"""The agent: mirrors the node's pods and the cluster's Services, and keeps one worker a pod."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.agent import cluster, hosts, server
from devcluster.agent import node as nodes
from devcluster.agent.api import Access, Api
from devcluster.agent.host import Host
from devcluster.agent.images import ImageTable
from devcluster.agent.process import Launcher
from devcluster.agent.resources import ExhaustedError, Pool, gpu_pool
from devcluster.agent.watch import Mirror, Objects
from devcluster.agent.worker import Worker

log = logging.getLogger(__name__)
HOSTS_PAUSE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    access: Access
    node: nodes.NodeSpec
    addresses: Pool
    state: Path
    images: Path
    certificate: Path | None = None
    key: Path | None = None
    back_off: float = 10.0


class Agent:
    """One node."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._api = Api(options.access)
        self._launcher = Launcher()
        self._workers: dict[str, Worker] = {}
        self._services: Objects = {}
        self._pods: Objects = {}
        self._neighbours: tuple[hosts.Endpoint, ...] = ()
        self._refused: set[str] = set()
        self._lock = threading.Lock()
        self._swept = False
        self._hosts_stale = threading.Event()
        self._stopped = threading.Event()
        self.heartbeat = nodes.Heartbeat(
            self._api, options.node, options.state / nodes.LOST_FILE, self._recover
        )
        capacity = options.node.capacity
        self._host = Host(
            api=self._api,
            launcher=self._launcher,
            images=ImageTable(options.images),
            node_name=options.node.name,
            node_ip=options.node.ip,
            allocatable=capacity,
            state=options.state,
            addresses=options.addresses,
            gpus=gpu_pool(int(capacity.get(nodes.GPU, 0))),
            back_off=options.back_off,
            lost=lambda: self.heartbeat.lost or self._stopped.is_set(),
            hosts_file=self._hosts_file,
            endpoints_changed=self._hosts_stale.set,
            address_freed=self._admit,
        )
        mine, others = (f"spec.nodeName{compared}{options.node.name}" for compared in ("=", "!="))
        self._mirrors = (
            Mirror(self._api, "/api/v1/services", {}, self._set_services),
            Mirror(self._api, "/api/v1/pods", {"fieldSelector": mine}, self._set_pods),
            Mirror(self._api, "/api/v1/pods", {"fieldSelector": others}, self._set_neighbours),
        )

    def start(self) -> None:
        """Begin. Raises `OSError` when the log server can not be started."""
        options = self._options
        options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificate, key = options.certificate, options.key
        if certificate is None or key is None:
            certificate, key = server.self_signed(options.state / "tls", options.node.ip)
        self._server = server.serve(options.node.ip, nodes.PORT, certificate, key, self._find_log)
        self.heartbeat.start()
        for mirror in self._mirrors:
            mirror.start()
        threading.Thread(target=self._follow_hosts, name="hosts", daemon=True).start()

    def stop(self) -> None:
        """End: every container is killed, nothing is told to the API server."""
        self._stopped.set()
        for mirror in self._mirrors:
            mirror.stop()
        self.heartbeat.stop()
        with self._lock:
            for worker in self._workers.values():
                worker.halt()
        self._launcher.close()
        self._server.shutdown()
        self._server.server_close()

    # ---- pods

    def _set_pods(self, found: Objects) -> None:
        if not self._swept:
            self._sweep(found)
            self._swept = True
        with self._lock:
            self._pods = found
            if not self.heartbeat.lost:  # a node that is cut off does not hear of deletions either
                self._follow_pods()
        self._hosts_stale.set()

    def _follow_pods(self) -> None:
        """Bring the workers in line with the pods. The lock must be held."""
        for uid, pod in self._pods.items():
            worker = self._workers.get(uid)
            if worker is not None and worker.pod is not pod:
                worker.update(pod)
        self._add_missing()
        for uid in self._workers.keys() - self._pods.keys():
            self._workers[uid].forget()

    def _add_missing(self) -> None:
        """Take on pods that have no worker, first those of an earlier agent: they have an address already."""
        missing = self._pods.keys() - self._workers.keys()
        folder = self._options.state / "pods"
        for uid in sorted(missing, key=lambda uid: not (folder / uid).exists()):
            self._add(uid, self._pods[uid])

    def _add(self, uid: str, pod: Mapping[str, Any]) -> None:
        try:
            worker = Worker(self._host, pod, self._remove)
        except (ExhaustedError, OSError) as error:
            self._refuse(uid, pod, str(error))
            return
        self._workers[uid] = worker
        worker.start()

    def _refuse(self, uid: str, pod: Mapping[str, Any], why: str) -> None:
        """Say once that a pod has to wait for something of the node."""
        if uid in self._refused:
            return
        self._refused.add(uid)
        log.warning("pod %s is not taken on yet: %s", pod["metadata"]["name"], why)
        message = f"Failed to create pod sandbox: {why}"
        told = (self._api, pod, self._options.node.name, "Warning", "FailedCreatePodSandBox", message)
        threading.Thread(target=cluster.post_event, args=told, daemon=True).start()

    def _admit(self) -> None:
        """An address is free again."""
        with self._lock:
            if not self._stopped.is_set() and not self.heartbeat.lost:
                self._add_missing()

    def _sweep(self, found: Objects) -> None:
        """Remove what earlier runs of the agent left of pods that are gone."""
        pods = self._options.state / "pods"
        for folder in pods.iterdir() if pods.exists() else ():
            if folder.name not in found:
                shutil.rmtree(folder, ignore_errors=True)

    def _recover(self) -> None:
        """The node is back: hear of all that happened, tell all that happened."""
        with self._lock:
            self._follow_pods()
            for worker in self._workers.values():
                worker.update(worker.pod)

    def _remove(self, uid: str) -> None:
        with self._lock:
            self._workers.pop(uid, None)
        self._hosts_stale.set()

    def _worker(self, namespace: str, name: str) -> Worker | None:
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            metadata = worker.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return worker
        return None

    def _find_log(self, namespace: str, pod: str, container: str, previous: bool) -> server.LogFile | None:
        worker = self._worker(namespace, pod)
        item = worker.container(container) if worker else None
        if worker is None or item is None or item.attempt < int(previous):
            return None
        number = item.attempt - int(previous)

        def running() -> bool:
            current = worker.container(container)
            return current is not None and current.attempt == number and current.running is not None

        return server.LogFile(worker.folder.log(container, number), running)

    # ---- names

    def _set_services(self, found: Objects) -> None:
        self._services = found
        self._hosts_stale.set()

    def _set_neighbours(self, found: Objects) -> None:
        endpoints = (hosts.endpoint_of(pod) for pod in found.values())
        neighbours = tuple(item for item in endpoints if item is not None)
        if neighbours != self._neighbours:
            self._neighbours = neighbours
            self._hosts_stale.set()

    def _hosts_file(self, viewer: hosts.Endpoint, pod: Mapping[str, Any]) -> str:
        with self._lock:
            endpoints = [worker.endpoint for worker in self._workers.values() if worker.has_address]
        return hosts.render(
            viewer,
            list(self._services.values()),
            [*endpoints, *self._neighbours],
            api_server=self._api.access.host,
            aliases=pod["spec"].get("hostAliases", ()),
        )

    def _follow_hosts(self) -> None:
        while not self._stopped.is_set():
            self._hosts_stale.wait()
            self._hosts_stale.clear()
            with self._lock:
                workers = [worker for worker in self._workers.values() if worker.has_address]
            for worker in workers:
                try:
                    worker.write_hosts()
                except OSError as error:
                    log.info("hosts of pod %s are not written: %s", worker.uid, error)
            time.sleep(HOSTS_PAUSE)
