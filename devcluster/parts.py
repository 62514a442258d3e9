"""The command lines of a cluster's programs. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devcluster.addresses import Addresses, Endpoint, pod_hosts

ETCD_CLIENT = "unix://localhost:1"
"""A socket file in the folder of etcd, which etcd and the API server are started in: nobody else can reach it.

The file is called localhost:1; etcd takes no path here."""
_ETCD_PEER = "unix://localhost:2"
SERVICE_CIDR = "10.96.0.0/16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Files and addresses that the command lines refer to."""

    folder: Path
    binaries: Mapping[str, str]
    addresses: Addresses
    nodes: int = 1
    """How many nodes, each with an agent of its own."""

    capacity: str = ""
    """name=quantity,... that each node reports over what the machine has."""

    node_loss_seconds: int = 20
    """Silence of the node agent until its node is not ready."""

    node_labels: str = ""
    """name=value,... of each node, over the usual ones."""

    eviction_seconds: int = 15
    """How long pods stay bound to a node that is not ready."""

    terminated_pods: int = 12500
    """How many pods that have ended are kept before the oldest are collected."""

    def path(self, *names: str) -> str:
        """A path in the cluster's folder."""
        return str(self.folder.joinpath(*names))

    def credentials(self, user: str) -> str:
        """The kubeconfig of `user`."""
        return self.path("credentials", f"{user}.kubeconfig")


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """How to start one part."""

    name: str
    command: tuple[str, ...]
    address: str
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)
    grace: float = 0.0
    """Seconds between SIGTERM and SIGKILL; 0 where nothing is worth a good end."""


def _flags(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"--{key}={value}" for key, value in values.items())


def etcd(at: Layout) -> Program:
    """The store, without fsync: it does not outlive the machine."""
    flags = {
        "name": "etcd",
        "data-dir": at.path("etcd", "data"),
        "unsafe-no-fsync": "true",
        "listen-client-urls": ETCD_CLIENT,
        "advertise-client-urls": ETCD_CLIENT,
        "listen-peer-urls": _ETCD_PEER,
        "initial-advertise-peer-urls": _ETCD_PEER,
        "initial-cluster": f"etcd={_ETCD_PEER}",
    }
    return Program(
        name="etcd", command=(at.binaries["etcd"], *_flags(flags)), address="socket file", cwd=at.path("etcd")
    )


def apiserver(at: Layout) -> Program:
    """The API server: RBAC, PodSecurity admission and CEL as in any cluster; it makes its own certificate."""
    key, certificate = at.path("pki", "service-accounts.key"), at.path("pki", "apiserver.crt")
    flags = {
        "etcd-servers": ETCD_CLIENT,
        "bind-address": at.addresses.apiserver.host,
        "advertise-address": at.addresses.apiserver.host,
        "secure-port": str(at.addresses.apiserver.port),
        "endpoint-reconciler-type": "none",  # it would write loopback addresses, which the API refuses
        "cert-dir": at.path("pki"),
        "kubelet-client-certificate": certificate,
        "kubelet-client-key": at.path("pki", "apiserver.key"),
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": key,
        "service-account-signing-key-file": key,
        "authorization-mode": "Node,RBAC",
        "token-auth-file": at.path("credentials", "tokens.csv"),
        "service-cluster-ip-range": SERVICE_CIDR,
        "default-not-ready-toleration-seconds": str(at.eviction_seconds),
        "default-unreachable-toleration-seconds": str(at.eviction_seconds),
        "profiling": "false",
    }
    return Program(
        name="kube-apiserver",
        command=(at.binaries["kube-apiserver"], *_flags(flags)),
        address=str(at.addresses.apiserver),
        cwd=at.path("etcd"),
    )


def controller_manager(at: Layout) -> Program:
    """The built-in controllers, but those for endpoints: the API refuses loopback addresses there."""
    endpoint_controllers = ("endpoints", "endpointslice", "endpointslice-mirroring")
    flags = {
        "kubeconfig": at.credentials("controller-manager"),
        "service-account-private-key-file": at.path("pki", "service-accounts.key"),
        "root-ca-file": at.path("pki", "apiserver.crt"),
        "use-service-account-credentials": "true",
        "leader-elect": "false",
        "controllers": ",".join(["*", *(f"-{name}-controller" for name in endpoint_controllers)]),
        "kube-api-qps": "200",
        "kube-api-burst": "400",
        "node-monitor-period": "1s",
        "terminated-pod-gc-threshold": str(at.terminated_pods),
        "node-monitor-grace-period": f"{at.node_loss_seconds}s",
        **_serving(at.addresses.controller_manager),
    }
    return Program(
        name="kube-controller-manager",
        command=(at.binaries["kube-controller-manager"], *_flags(flags)),
        address=str(at.addresses.controller_manager),
        cwd=at.path(),
    )


def scheduler(at: Layout) -> Program:
    """The scheduler."""
    flags = {
        "kubeconfig": at.credentials("scheduler"),
        "leader-elect": "false",
        **_serving(at.addresses.scheduler),
    }
    return Program(
        name="kube-scheduler",
        command=(at.binaries["kube-scheduler"], *_flags(flags)),
        address=str(at.addresses.scheduler),
        cwd=at.path(),
    )


def _serving(endpoint: Endpoint) -> dict[str, str]:
    return {"bind-address": endpoint.host, "secure-port": str(endpoint.port), "profiling": "false"}


def s3(at: Layout, access_key: str, secret_key: str) -> Program:
    """The S3 server over a folder; attributes go to a folder of their own, so that any file system will do."""
    return Program(
        name="s3",
        command=(
            at.binaries["versitygw"],
            "--port",
            str(at.addresses.s3),
            "--health",
            "/health",
            "--quiet",
            "posix",
            "--sidecar",
            at.path("s3", "attributes"),
            at.path("s3", "data"),
        ),
        address=str(at.addresses.s3),
        cwd=at.path("s3"),
        env={"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key},
    )


def training_operator(at: Layout) -> Program:
    """The training operator, with a /tmp of its own: it reads its certificates from a fixed folder there."""
    private = at.path("training-operator")
    return Program(
        name="training-operator",
        command=(
            sys.executable,
            "-m",
            "devcluster.sandbox",
            private,
            at.binaries["training-operator.v1"],
            "--enable-scheme=pytorchjob",
            f"--webhook-server-port={at.addresses.webhook.port}",
            f"--health-probe-bind-address={at.addresses.training_operator_health}",
            "--metrics-bind-address=0",
        ),
        address=str(at.addresses.webhook),
        cwd="/",
        env={"KUBECONFIG": "/tmp/kubeconfig"},  # noqa: S108 - the sandbox's own /tmp
    )


def node_name(number: int) -> str:
    """The name of a node, from 0."""
    return f"devcluster-{number}"


def agent_name(number: int) -> str:
    """The name of a node's agent and of its folder in the cluster's."""
    return f"agent-{number}" if number else "agent"


def agent(at: Layout, number: int) -> Program:
    """The agent of one node."""
    address = at.addresses.node(number)
    first, last = pod_hosts(number, at.nodes)
    flags = {
        "kubeconfig": at.credentials("admin"),
        "node-name": node_name(number),
        "node-ip": address.host,
        "pod-cidr": at.addresses.pod_cidr,
        "pod-hosts": f"{first}-{last}",
        "state-dir": at.path(agent_name(number)),
        "images": at.path("images.json"),
        "tls-cert": at.path("pki", "apiserver.crt"),  # clients of a kubelet's log port do not verify it
        "tls-key": at.path("pki", "apiserver.key"),
    }
    optional = {"capacity": at.capacity, "labels": at.node_labels}
    extra = _flags({key: value for key, value in optional.items() if value})
    return Program(
        name=agent_name(number),
        command=(sys.executable, "-m", "devcluster.agent", *_flags(flags), *extra),
        address=str(address),
        cwd=at.path(),
        grace=10.0,
    )
