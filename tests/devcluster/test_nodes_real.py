"""Two nodes, of which one is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import cluster, parts, processes, state
from tests.devcluster.kube import Namespace, opened, pod

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    """A cluster of its own: its node is given up soon."""
    folder = tmp_path_factory.mktemp("devcluster") / "two"
    config = cluster.Config(name="two", dir=folder, nodes=2, node_loss_seconds=12, eviction_seconds=3)
    with cluster.running(config) as started:
        yield started


@pytest.fixture
def namespace(two_nodes: cluster.Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with opened(two_nodes, request.node.name) as made:
        yield made


SERVE = "import http.server; http.server.test(HandlerClass=http.server.SimpleHTTPRequestHandler, port=8080)"
ASK = """
import time, urllib.request
while True:
    try:
        print(urllib.request.urlopen("http://server:8080/etc/hostname", timeout=5).read().decode())
        break
    except OSError:
        time.sleep(0.1)
"""


def on(number: int, name: str, code: str) -> dict[str, Any]:
    """A pod of one node that runs Python."""
    container = {"image": "test/python", "command": None, "args": ["-c", code]}
    return pod(name, "", {"app": name}, nodeName=parts.node_name(number), container=container)


def replica(tmp_path: Path) -> dict[str, Any]:
    """A Deployment of one pod that writes to a file of its name, and is deaf when asked to end."""
    template = pod(
        "",
        "while :; do date +%s%N > /d/$(hostname); sleep 0.05; done",
        container={"volumeMounts": [{"name": "d", "mountPath": "/d"}]},
        volumes=[{"name": "d", "hostPath": {"path": str(tmp_path)}}],
        terminationGracePeriodSeconds=1,
    )
    labels = {"app": "saver"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "saver"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {**template["spec"], "restartPolicy": "Always"},
            },
        },
    }


def test_pods_of_one_node_reach_those_of_another_by_name(namespace: Namespace) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"clusterIP": "None", "selector": {"app": "server"}, "ports": [{"port": 8080}]},
    }
    namespace.apply(service, on(0, "server", SERVE), on(1, "client", ASK))
    client, server = (
        namespace.wait_phase("client", "Succeeded", "Failed"),
        namespace.wait_phase("server", "Running"),
    )
    assert client["status"]["phase"] == "Succeeded"
    assert namespace.kubectl("logs", "client").strip() == "server"
    assert client["status"]["podIP"] != server["status"]["podIP"]
    assert client["status"]["hostIP"] != server["status"]["hostIP"]


def test_a_killed_api_server_is_back_with_all_it_knew_and_pods_go_on(
    namespace: Namespace, two_nodes: cluster.Cluster
) -> None:
    namespace.apply(pod("before", "sleep 3600", terminationGracePeriodSeconds=0))
    before = namespace.wait_phase("before", "Running")
    old = process_of(two_nodes, "kube-apiserver")
    two_nodes.restart("kube-apiserver")
    assert not old.alive()
    assert process_of(two_nodes, "kube-apiserver").alive()
    after = namespace.pod("before")
    assert after is not None
    for part in ("state", "restartCount", "containerID"):
        was, now = (item["status"]["containerStatuses"][0][part] for item in (before, after))
        assert was == now
    namespace.apply(pod("after", "exit 0"))
    namespace.wait_phase("after", "Succeeded")


def test_a_part_that_there_is_not_can_not_be_restarted(two_nodes: cluster.Cluster) -> None:
    with pytest.raises(cluster.ClusterError, match="has no part 'kubelet'; there are etcd, kube-apiserver"):
        two_nodes.restart("kubelet")


def process_of(running: cluster.Cluster, part: str) -> processes.Identity:
    found = state.read(running.dir)
    assert found is not None
    return next(item.process for item in found.parts if item.name == part)


def test_a_pod_of_a_lost_node_is_replaced_on_another_while_its_process_goes_on(
    namespace: Namespace, two_nodes: cluster.Cluster, tmp_path: Path
) -> None:
    namespace.apply(replica(tmp_path))

    def running(but: str = "") -> dict[str, Any] | None:
        for item in namespace.pods("app=saver"):
            if item["metadata"]["name"] != but and item["status"].get("phase") == "Running":
                return item
        return None

    first = namespace.wait("the first pod runs", running)
    name = first["metadata"]["name"]
    lost = two_nodes.node_lost(int(first["spec"]["nodeName"][-1]))
    lost.touch()
    try:
        second = namespace.wait("another pod runs", lambda: running(but=name))
        assert second["spec"]["nodeName"] != first["spec"]["nodeName"]
        leaving = namespace.pod(name)
        assert leaving is not None
        assert (leaving["status"]["phase"], "deletionTimestamp" in leaving["metadata"]) == ("Running", True)
        reasons = {item["type"]: item.get("reason") for item in leaving["status"]["conditions"]}
        assert reasons["DisruptionTarget"] == "DeletionByTaintManager"
        namespace.kubectl("delete", "pod", name, "--force", "--grace-period=0")
        step = (tmp_path / name).read_text()
        namespace.wait("the old process goes on", lambda: (tmp_path / name).read_text() not in ("", step))
    finally:
        lost.unlink()
    marker = state.read(two_nodes.dir)
    assert marker is not None
    assert [part.name for part in marker.parts if part.name.startswith("agent")] == ["agent", "agent-1"]
