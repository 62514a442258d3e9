"""The Node object and its heartbeat."""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devcluster.agent import api as kube

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 3.0
LEASE_SECONDS = 40
PORT = 10250
LOST_FILE = "node-lost"
"""While it exists in the agent's folder, the node is cut off."""
GPU = "nvidia.com/gpu"
GPU_PRODUCT = "NVIDIA-H100-80GB-HBM3"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What the node claims to be."""

    name: str
    ip: str
    capacity: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    """Over those that every node has, such as another nvidia.com/gpu.product."""


def machine_capacity() -> dict[str, str]:
    """What this machine has, before the command line's own numbers."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": str(memory),
        "pods": "110",
        "ephemeral-storage": "100Gi",
    }


def parse_pairs(text: str, what: str) -> dict[str, str]:
    """`cpu=8,memory=64Gi` as a mapping; `ValueError` for a part without `=`."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if "=" not in part]
    if wrong:
        raise ValueError(f"{what} {wrong[0]!r} has no '=': write name=value, separated by commas")
    return {name: value for name, _, value in (part.partition("=") for part in parts)}


def own_labels(node: NodeSpec) -> dict[str, str]:
    """The labels a kubelet sets, and sets again when they were changed."""
    return {
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "mochi.finetune.dev/devcluster": "true",
    }


def labels(node: NodeSpec) -> dict[str, str]:
    """The labels of a new node: also those of NVIDIA's feature discovery, which may be changed afterwards."""
    gpus = node.capacity.get(GPU, "0")
    found = {"nvidia.com/gpu.product": GPU_PRODUCT, "nvidia.com/gpu.count": gpus} if gpus != "0" else {}
    return own_labels(node) | found | dict(node.labels)


def status(node: NodeSpec, now: datetime) -> dict[str, Any]:
    """The status of a healthy node."""
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    conditions = {
        "Ready": ("True", "KubeletReady", "the devcluster agent is posting ready status"),
        "MemoryPressure": ("False", "KubeletHasSufficientMemory", "not measured"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure", "not measured"),
        "PIDPressure": ("False", "KubeletHasSufficientPID", "not measured"),
    }
    return {
        "capacity": dict(node.capacity),
        "allocatable": dict(node.capacity),
        "addresses": [{"type": "InternalIP", "address": node.ip}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
        "conditions": [
            {"type": kind, "status": value, "reason": reason, "message": message, "lastHeartbeatTime": stamp}
            for kind, (value, reason, message) in conditions.items()
        ],
        "nodeInfo": {
            "machineID": "devcluster",
            "systemUUID": "devcluster",
            "bootID": "devcluster",
            "kernelVersion": platform.release(),
            "osImage": "processes of this machine",
            "containerRuntimeVersion": "devcluster://0.1",
            "kubeletVersion": "v1.34.4",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        },
    }


def micro_time(now: datetime) -> str:
    """`metav1.MicroTime`."""
    return f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"


class Heartbeat:
    """Registers the node, then renews its Lease and its status until stopped.

    The node is lost while `lose` is in force or the file `toggle` exists: nothing is renewed, and `lost` says so,
    for the agent to keep silent about its pods too. `recovered` is called after the first beat that follows.
    """

    def __init__(self, api: kube.Api, node: NodeSpec, toggle: Path, recovered: Callable[[], None]) -> None:
        self._api = api
        self._node = node
        self._toggle = toggle
        self._recovered = recovered
        self._lost = threading.Event()
        self._stopped = threading.Event()
        self.registered = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether the node is to look dead."""
        return self._lost.is_set() or self._toggle.exists()

    def lose(self) -> None:
        """Stop the heartbeat."""
        self._lost.set()

    def resume(self) -> None:
        """Start the heartbeat again."""
        self._lost.clear()

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()

    def _run(self) -> None:
        silent = False
        while not self._stopped.is_set():
            try:
                if self.lost:
                    silent = True
                else:
                    self._beat()
                    if silent:
                        self._recovered()
                    silent = False
            except (kube.ApiError, OSError) as error:
                log.warning("heartbeat of node %s is not delivered, trying again: %s", self._node.name, error)
                self._stopped.wait(1)
                continue
            self._stopped.wait(HEARTBEAT_SECONDS)

    def _beat(self) -> None:
        path = f"/api/v1/nodes/{self._node.name}"
        self._renew(self._uid(path))
        body = {"status": status(self._node, datetime.now(UTC))}
        self._api.request("PATCH", f"{path}/status", body, content_type=kube.STRATEGIC_TYPE)
        self.registered.set()

    def _uid(self, path: str) -> str:
        """The node's uid; creates the node when it is missing."""
        found = self._api.find(path)
        if found is None:
            metadata = {"name": self._node.name, "labels": labels(self._node)}
            found = self._api.request(
                "POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
            )
        elif not own_labels(self._node).items() <= found["metadata"].get("labels", {}).items():
            body = {"metadata": {"labels": own_labels(self._node)}}
            self._api.request("PATCH", path, body, content_type=kube.STRATEGIC_TYPE)
        return str(found["metadata"]["uid"])

    def _renew(self, uid: str) -> None:
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {
            "holderIdentity": self._node.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": micro_time(datetime.now(UTC)),
        }
        try:
            self._api.request(
                "PATCH", f"{leases}/{self._node.name}", {"spec": spec}, content_type=kube.MERGE_TYPE
            )
        except kube.ApiError as error:
            if error.status != kube.HTTP_NOT_FOUND:
                raise
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._node.name, "uid": uid}
            metadata = {"name": self._node.name, "ownerReferences": [owner]}
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": spec,
            }
            self._api.request("POST", leases, lease)
