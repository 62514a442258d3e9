"""Another node of the cluster, which a test may drain or lose: an agent of its own, ended with the context."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster import addresses, processes
from devcluster.agent import linux
from devcluster.agent.node import LOST_FILE
from devcluster.parts import NODE
from mochi_api.identity import GROUP
from tests.e2e.lab import Lab

PLACE = f"{GROUP}/e2e-place"
"""Label of the nodes where the pods of a run may be; the other node has no label until a test gives it one."""
READY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """The node, while its agent runs."""

    name: str
    state: Path

    @property
    def lost(self) -> Path:
        """While this file exists the node is cut off; its processes go on."""
        return self.state / LOST_FILE


def placed(node: str) -> dict[str, object]:
    """Changes of a spec for a run that starts on `node`."""
    template = {
        "nodeSelector": {f"{PLACE}-{node}": "yes"},
        "tolerations": [{"key": PLACE, "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {"workers.podTemplate": template}


def open_elsewhere(lab: Lab, node: str) -> None:
    """From now on the pods of a run that started on `node` may be made on the cluster's first node."""
    lab.kubectl.run("label", "node", NODE, f"{PLACE}-{node}=yes")


@contextmanager
def joined(lab: Lab, name: str) -> Iterator[Node]:
    """One more node, for the runs that are `placed` on it only."""
    folder = lab.cluster.dir.parent / name
    folder.mkdir()
    with addresses.reserved_block() as block:
        agent = _agent(lab, name, block, folder)
        try:
            _until_ready(lab, name, agent, folder)
            lab.kubectl.run("taint", "node", name, f"{PLACE}=:NoSchedule")
            lab.kubectl.run("label", "node", name, f"{PLACE}-{name}=yes")
            yield Node(name=name, state=folder / "state")
        finally:
            left = processes.descendants(agent.pid)
            agent.terminate()
            try:
                agent.wait(20)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
            processes.end(left, grace=0)
            lab.kubectl.run("delete", "node", name, "--ignore-not-found", "--wait=false")


def _agent(lab: Lab, name: str, block: str, folder: Path) -> subprocess.Popen[bytes]:
    flags = {
        "kubeconfig": lab.cluster.kubeconfig,
        "node-name": name,
        "node-ip": f"{block}.3",
        "pod-cidr": f"{block}.0/24",
        "state-dir": folder / "state",
        "images": lab.cluster.dir / "images.json",
        "tls-cert": lab.cluster.dir / "pki" / "apiserver.crt",
        "tls-key": lab.cluster.dir / "pki" / "apiserver.key",
    }
    with (folder / "agent.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "devcluster.agent", *(f"--{key}={value}" for key, value in flags.items())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=functools.partial(linux.die_with_parent, os.getpid(), signal.SIGKILL),
        )


def _until_ready(lab: Lab, name: str, agent: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while not _ready(lab, name):
        said = (folder / "agent.log").read_text()
        assert agent.poll() is None, f"the agent of {name} ended: {said}"
        assert time.monotonic() < end, f"{name} is not ready after {READY_SECONDS:.0f} s: {said}"
        time.sleep(0.3)


def _ready(lab: Lab, name: str) -> bool:
    nodes = lab.kubectl.json("get", "nodes")["items"]
    found: dict[str, Any] = next((node for node in nodes if node["metadata"]["name"] == name), {})
    conditions = found.get("status", {}).get("conditions", ())
    return any((item["type"], item["status"]) == ("Ready", "True") for item in conditions)
