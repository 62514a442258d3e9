"""One pod's worker with real containers, and an API server that only listens."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devcluster.agent.host import Host
from devcluster.agent.images import ImageTable
from devcluster.agent.process import Launcher
from devcluster.agent.resources import ExhaustedError, Pool, gpu_pool
from devcluster.agent.worker import Worker

WAIT = 60.0
ADDRESS = "127.9.8.10"


class Listener:
    """Takes every status a worker reports."""

    access = SimpleNamespace(host="127.9.8.1", port=6443)

    def __init__(self) -> None:
        self.reports: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.objects: dict[str, dict[str, Any]] = {}
        """What it has: end of a kind's plural -> spec."""

    def request(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
        if path.endswith("/status"):
            self.reports.put(body["status"])
        return body or {}

    def find(self, path: str) -> dict[str, Any] | None:
        kind = next((kind for kind in self.objects if kind in path.split("/")[-2]), None)
        return None if kind is None else {"spec": self.objects[kind]}

    def phase(self, wanted: str) -> dict[str, Any]:
        """The first report from now on with a phase."""
        until = time.monotonic() + WAIT
        while (left := until - time.monotonic()) > 0:
            status = self.reports.get(timeout=left)
            if status["phase"] == wanted:
                return status
        raise AssertionError(f"no phase {wanted} within {WAIT:.0f} s")


class Node:
    """What the workers of a test share: one address, and a count of how often it was given back."""

    def __init__(self, state: Path) -> None:
        table = state / "images.json"
        table.write_text(
            json.dumps({"shell": {"entrypoint": ["/bin/sh", "-c"], "env": {"PATH": "/usr/bin:/bin"}}})
        )
        self.api = Listener()
        self.freed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.launcher = Launcher()
        self.host = Host(
            api=self.api,  # type: ignore[arg-type]
            launcher=self.launcher,
            images=ImageTable(table),
            node_name="n",
            node_ip="127.9.8.3",
            allocatable={},
            state=state,
            addresses=Pool("pod addresses", [ADDRESS]),
            gpus=gpu_pool(0),
            back_off=10.0,
            lost=lambda: False,
            hosts_file=lambda viewer, pod: "127.0.0.1 localhost\n",
            endpoints_changed=lambda: None,
            address_freed=lambda: self.freed.put(None),
        )
        self.workers: list[Worker] = []

    def run(self, uid: str, script: str, *beside: dict[str, Any], **spec: Any) -> Worker:
        """Start a pod with one main container; `beside` are its init containers."""
        containers = [{"name": "main", "image": "shell", "args": [script]}]
        pod = {
            "metadata": {"name": uid, "namespace": "n", "uid": uid},
            "spec": {
                "restartPolicy": "Never",
                "initContainers": list(beside),
                "containers": containers,
                **spec,
            },
        }
        worker = Worker(self.host, pod, lambda _: None)
        self.workers.append(worker)
        worker.start()
        return worker


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    for worker in made.workers:
        worker.halt()
    made.launcher.close()


def test_pods_one_after_another_find_an_address_though_nobody_deletes_them(node: Node) -> None:
    for number in range(3):
        worker = node.run(f"pod-{number}", "exit 0")
        assert worker.has_address
        status = node.api.phase("Succeeded")
        node.freed.get(timeout=WAIT)
        assert status["podIP"] == ADDRESS, "the status keeps what is another pod's from now on"
        assert not worker.has_address


def test_a_pod_that_runs_keeps_its_address(node: Node) -> None:
    node.run("long", "sleep 60")
    node.api.phase("Running")
    with pytest.raises(ExhaustedError, match="pod addresses: 1 wanted, 0 left"):
        node.run("late", "exit 0")


def test_an_ended_pod_that_a_new_agent_finds_takes_no_address(node: Node) -> None:
    node.run("first", "exit 0")
    ended = node.api.phase("Succeeded")
    node.freed.get(timeout=WAIT)
    node.run("second", "sleep 60")
    pod = {
        "metadata": {"name": "first", "namespace": "n", "uid": "first"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "shell"}]},
        "status": ended,
    }
    again = Worker(node.host, pod, lambda _: None)
    assert (again.has_address, again.endpoint.ip) == (False, ADDRESS)


def test_a_sidecar_runs_from_before_the_main_container_to_after_it(node: Node, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    mounts = [{"name": "v", "mountPath": "/shared"}]
    loop = (
        "trap 'echo sidecar ends >> /shared/log; exit 7' TERM; echo sidecar >> /shared/log; "
        "while :; do sleep 0.05; done"
    )
    sidecar = {"name": "proxy", "image": "shell", "args": [loop], "restartPolicy": "Always"}
    init = {
        "name": "init",
        "image": "shell",
        "args": ["until [ -s /shared/log ]; do sleep 0.05; done; echo init >> /shared/log"],
    }
    node.run(
        "with-sidecar",
        "",
        {**sidecar, "volumeMounts": mounts},
        {**init, "volumeMounts": mounts},
        containers=[
            {
                "name": "main",
                "image": "shell",
                "args": ["echo main >> /shared/log; printf done > /dev/termination-log"],
                "volumeMounts": mounts,
            }
        ],
        volumes=[{"name": "v", "hostPath": {"path": str(shared)}}],
    )
    status = node.api.phase("Succeeded")
    assert (shared / "log").read_text().splitlines() == ["sidecar", "init", "main", "sidecar ends"]
    proxy = status["initContainerStatuses"][0]
    assert (proxy["name"], proxy["state"]["terminated"]["exitCode"], proxy["ready"]) == ("proxy", 7, False)
    assert status["containerStatuses"][0]["state"]["terminated"]["message"] == "done"


CLAIM_SCRIPT = "ls /data/lost+found; touch /data/$(hostname); cat /data/file"


@pytest.mark.parametrize(
    ("security", "listed", "written"),
    [
        pytest.param({}, False, False, id="a volume's root belongs to root"),
        pytest.param({"fsGroup": 10001}, False, True, id="an fsGroup may write, and lost+found stays root's"),
        pytest.param({"runAsUser": 0}, True, True, id="root may everything"),
    ],
)
def test_a_claim_is_used_as_the_pods_user_may(
    node: Node, tmp_path: Path, security: dict[str, int], listed: bool, written: bool
) -> None:
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True, mode=0o700)
    (disk / "lost+found" / "inode-7").touch()
    (disk / "file").write_text("content")
    node.api.objects = {"claims": {"volumeName": "disk"}, "volumes": {"hostPath": {"path": str(disk)}}}
    worker = node.run(
        "claimant",
        "",
        securityContext={"runAsUser": 10001, **security},
        volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "disk"}}],
        containers=[
            {
                "name": "main",
                "image": "shell",
                "args": [CLAIM_SCRIPT],
                "volumeMounts": [{"name": "d", "mountPath": "/data"}],
            }
        ],
    )
    node.api.phase("Succeeded")
    said = worker.folder.log("main", 0).read_text()
    assert ("inode-7" in said, "lost+found': Permission denied" in said) == (listed, not listed)
    assert (disk / "claimant").exists() is written
    assert said.rstrip().endswith("content")
