"""One pod's life on this node: a thread that compares what should be with what is, acts, and reports."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from devcluster.agent import api as kube
from devcluster.agent import cluster, launch, pods, record, status
from devcluster.agent.containers import Container, from_status
from devcluster.agent.crew import Crew, Inbox, pod_name
from devcluster.agent.endings import survivor
from devcluster.agent.host import Host
from devcluster.agent.hosts import Endpoint
from devcluster.agent.preparation import Preparation
from devcluster.agent.process import ClosedError, Process
from devcluster.agent.report import Report, final

log = logging.getLogger(__name__)
SYNC_SECONDS = 30.0
ERROR_RETRY = 1.0


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
        return self._crew.container(name)

    def process(self, name: str) -> Process | None:
        """A container's process while it runs."""
        return self._crew.process(name)

    @property
    def endpoint(self) -> Endpoint:
        """The pod as Services see it."""
        metadata, spec = self._pod["metadata"], self._pod["spec"]
        stopping = self._gone or "deletionTimestamp" in metadata
        return Endpoint(
            namespace=metadata["namespace"],
            name=metadata["name"],
            ip=self._where.pod_ip,
            ready=not stopping and self._crew.serving,
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
                log.warning("pod %s: %s; trying again", pod_name(self._pod), error)
                wait = ERROR_RETRY
            except Exception:  # a bug, or a pod no kubelet was ever given: the other pods go on
                log.exception(
                    "pod %s is not handled; trying again in %.0f s", pod_name(self._pod), SYNC_SECONDS
                )
                wait = SYNC_SECONDS
            if wait is None:
                self._ended(self.uid)
                return
            self._inbox.wake.wait(wait)
            self._inbox.wake.clear()

    def _sync(self) -> float | None:
        """One comparison; returns seconds until the next, None at the end of the pod."""
        self._crew.take_news()
        pod, now = self._pod, time.time()
        stop = self._stop(pod, now)
        plan = pods.Plan()
        if stop is not None or not final(pod):
            plan = pods.plan(pod, self._crew.containers, now, stop)
        for action in plan.actions:
            self._crew.act(action, now)
        if plan.actions:
            self._crew.save()
        if stop is not None and stop.reason is pods.StopReason.GONE:
            return self._bury()
        self._crew.obey_hooks(pod)
        if self._crew.anything_runs:
            self._preparation.renew(pod, now)
        acting = stop if stop is not None and now >= stop.not_before else None
        self._report.send(pod, self._crew.containers, acting)
        if not self._crew.anything_runs:
            self._settle(pod, acting)
        return max(0.0, min(plan.wake_at - time.time(), SYNC_SECONDS)) if plan.wake_at else SYNC_SECONDS

    def _settle(self, pod: Mapping[str, Any], stop: pods.Stop | None) -> None:
        """What is due when nothing runs (any more)."""
        policy = pod["spec"].get("restartPolicy", "Always")
        if status.phase(self._crew.containers, policy, stop) in status.FINAL:
            self._release_address()
        if stop is not None and stop.reason is pods.StopReason.DELETED:
            self._report.confirm_deletion(pod)

    def _release_address(self) -> None:
        if self._has_address:
            self._has_address = False
            self._host.addresses.give_back(self.uid)
            self._host.address_freed()

    def _stop(self, pod: Mapping[str, Any], now: float) -> pods.Stop | None:
        if self._gone:
            return pods.Stop(reason=pods.StopReason.GONE, message="", grace=0.0)
        return pods.stop_order(pod, now, self._where.started_at)

    # ---- state on disk

    def _load(self) -> None:
        now, known = time.time(), record.read(self.folder.record)
        if known is None:
            found = from_status(self._pod, now)
        else:
            found = [survivor(self._pod, self.folder, item, now) for item in known.containers]
        ip = self._take_address(known) if self._has_address else self._pod["status"].get("podIP", "")
        started_at = known.started_at if known else now
        self._where = status.Address(pod_ip=ip, host_ip=self._host.node_ip, started_at=started_at)
        self._preparation = Preparation(self._host, self.folder, self._where, self._namespace)
        self._report = Report(self._host, self._where)
        self._crew = Crew(
            self._host,
            self.folder,
            self._where,
            found,
            self._preparation,
            self._report,
            self._inbox,
            uid=self.uid,
            pod=lambda: self._pod,
            write_hosts=self.write_hosts,
        )
        self._crew.save()
        self._preparation.write_etc(self._pod)

    def _take_address(self, known: record.Record | None) -> str:
        if known is not None:
            self._host.addresses.reserve(self.uid, known.ip)
        return self._host.addresses.take(self.uid)[0]

    def _bury(self) -> float | None:
        if self._crew.anything_runs:
            return SYNC_SECONDS
        self._crew.stop_probes()
        shutil.rmtree(self.folder.path, ignore_errors=True)
        self._release_address()
        self._host.endpoints_changed()
        return None
