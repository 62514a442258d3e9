"""Pods of every kind the project uses, on a real control plane."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import binaries, cluster
from devcluster.agent import hooks
from devcluster.agent.node import HEARTBEAT_SECONDS
from devcluster.agent.pods import DELAY_ANNOTATION
from tests.devcluster.kube import PODS, WAIT, Namespace, opened, pod
from tests.devcluster.running import processes_of

pytestmark = pytest.mark.e2e

RENEWAL = 150.0
"""Seconds for which a trainer whose token has expired waits for a renewed Secret."""


@pytest.fixture(autouse=True, scope="module")
def programs() -> None:
    """A cold build takes many minutes: it is asked for, never a surprise inside a test."""
    names = [name for tool in binaries.CLUSTER_TOOLS for name in tool.packages]
    missing = [name for name in names if binaries.find(name) is None]
    if missing:
        pytest.fail(f"{missing[0]} is not built yet: run `make setup`")


@pytest.fixture
def namespace(control_plane: cluster.Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with opened(control_plane, request.node.name) as made:
        yield made


def ended(item: dict[str, Any]) -> dict[str, Any]:
    return item["status"]["containerStatuses"][0]["state"]["terminated"]


def test_a_job_runs_to_its_end_with_config_and_message(namespace: Namespace) -> None:
    template = pod(
        "",
        'cat /etc/mochi/run.yaml; id -u; printf \'{"index": "%s"}\' $JOB_COMPLETION_INDEX > /dev/termination-log; '
        "exit $JOB_COMPLETION_INDEX",
        container={
            "volumeMounts": [{"name": "run", "mountPath": "/etc/mochi"}],
            "resources": {"limits": {"nvidia.com/gpu": 1}},
        },
        volumes=[{"name": "run", "configMap": {"name": "run"}}],
        securityContext={"runAsUser": 10001, "runAsNonRoot": True},
    )
    failure_rule = {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "trim"},
        "spec": {
            "completions": 2,
            "parallelism": 2,
            "completionMode": "Indexed",
            "backoffLimitPerIndex": 3,
            "podFailurePolicy": {"rules": [failure_rule]},
            "template": {"metadata": {"labels": {"of": "trim"}}, "spec": template["spec"]},
        },
    }
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "run"},
        "data": {"run.yaml": "x: 1\n"},
    }
    namespace.apply(config, job)
    path = f"/apis/batch/v1/namespaces/{namespace.name}/jobs/trim"
    status = namespace.wait(
        "the job ends", lambda: (s := namespace.api.get(path)["status"]).get("conditions") and s
    )
    assert (status["completedIndexes"], status["failedIndexes"]) == ("0", "1")
    messages = {ended(item)["exitCode"]: ended(item)["message"] for item in namespace.pods("of=trim")}
    assert messages == {0: '{"index": "0"}', 1: '{"index": "1"}'}
    first = next(item for item in namespace.pods("of=trim") if ended(item)["exitCode"] == 0)
    assert namespace.kubectl("logs", first["metadata"]["name"]) == "x: 1\n10001\n"


SERVER = """
import http.server, json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
token, name = open(folder + "token").read(), open(folder + "namespace").read()
address = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
url = f"{address}/api/v1/namespaces/{name}/configmaps/allowed"
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=folder + "ca.crt"), timeout=10) as answer:
    print("read", json.load(answer)["data"]["k"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
http.server.HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


def test_a_deployment_becomes_available_and_may_use_its_token(namespace: Namespace) -> None:
    role = "rbac.authorization.k8s.io/v1"
    account = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace.name}
    container = {
        "name": "server",
        "image": "test/python",
        "args": ["-c", SERVER],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "initialDelaySeconds": 10},
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
    }
    namespace.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "allowed"}, "data": {"k": "v"}},
        {
            "apiVersion": role,
            "kind": "Role",
            "metadata": {"name": "reader"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}],
        },
        {
            "apiVersion": role,
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [account],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "server"},
            "spec": {
                "replicas": 2,  # both listen on port 8080 of all addresses
                "selector": {"matchLabels": {"app": "server"}},
                "template": {
                    "metadata": {"labels": {"app": "server"}},
                    "spec": {
                        "serviceAccountName": "reader",
                        "securityContext": {"runAsUser": 10001},
                        "terminationGracePeriodSeconds": 1,
                        "containers": [container],
                    },
                },
            },
        },
    )
    path = f"/apis/apps/v1/namespaces/{namespace.name}/deployments/server"
    namespace.wait(
        "both replicas are available", lambda: namespace.api.get(path)["status"].get("availableReplicas") == 2
    )
    addresses = {item["status"]["podIP"] for item in namespace.pods("app=server")}
    assert len(addresses) == 2
    for item in namespace.pods("app=server"):
        assert namespace.kubectl("logs", item["metadata"]["name"]).startswith("read v\n")
        assert item["status"]["containerStatuses"][0]["restartCount"] == 0
    namespace.api.request("DELETE", path)


def test_logs_are_followed_to_the_end(namespace: Namespace) -> None:
    namespace.apply(pod("talker", "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done; echo err >&2"))
    namespace.wait_phase("talker", "Running")
    lines = namespace.kubectl("logs", "-f", "talker").splitlines()
    assert lines == ["line 1", "line 2", "line 3", "line 4", "line 5", "err"]
    stamped = namespace.kubectl("logs", "--timestamps", "--tail=1", "talker").split()
    assert (stamped[0][:2], stamped[0][-1], stamped[1]) == ("20", "Z", "err")


def test_a_deleted_pod_may_say_goodbye(namespace: Namespace, tmp_path: Path) -> None:
    save = f"trap 'echo saved > {tmp_path}/checkpoint; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    shared = {
        "volumes": [{"name": "d", "hostPath": {"path": str(tmp_path)}}],
        "container": {"volumeMounts": [{"name": "d", "mountPath": str(tmp_path)}]},
    }
    namespace.apply(
        pod("polite", save, terminationGracePeriodSeconds=600, **shared),
        pod("deaf", "trap '' TERM; echo up; while :; do sleep 0.05; done", terminationGracePeriodSeconds=2),
    )
    for name in ("polite", "deaf"):
        namespace.wait_phase(name, "Running")
        namespace.wait(f"{name} is up", lambda name=name: "up" in namespace.kubectl("logs", name))
    refused = namespace.kubectl("exec", "deaf", "--", "ls", check=False)
    assert "exec is not supported by the devcluster agent" in refused
    began = time.monotonic()
    for name in ("polite", "deaf"):
        namespace.api.request("DELETE", f"{PODS.format(namespace.name)}/{name}")
    namespace.wait("the polite pod is gone", lambda: namespace.pod("polite") is None)
    assert (tmp_path / "checkpoint").read_text() == "saved\n"
    namespace.wait("the deaf pod is gone", lambda: namespace.pod("deaf") is None)
    assert time.monotonic() - began >= 2, "it had its grace period"


def test_a_pod_on_a_slow_node_stays_terminating_while_its_process_goes_on(
    namespace: Namespace, tmp_path: Path
) -> None:
    shared = {
        "volumes": [{"name": "d", "hostPath": {"path": str(tmp_path)}}],
        "container": {"volumeMounts": [{"name": "d", "mountPath": "/d"}]},
        "terminationGracePeriodSeconds": 0,
    }
    slow = pod("slow", "while :; do date +%s%N > /d/step; sleep 0.05; done", **shared)
    slow["metadata"]["annotations"] = {DELAY_ANNOTATION: "3600"}
    namespace.apply(slow)
    namespace.wait_phase("slow", "Running")
    namespace.kubectl("delete", "pod", "slow", "--grace-period=1", "--wait=false")
    step = namespace.wait("a step", lambda: (tmp_path / "step").exists() and (tmp_path / "step").read_text())
    namespace.wait("another step", lambda: (tmp_path / "step").read_text() not in ("", step))
    leaving = namespace.pod("slow")
    assert leaving is not None
    assert "deletionTimestamp" in leaving["metadata"]
    assert "running" in leaving["status"]["containerStatuses"][0]["state"]
    namespace.kubectl("annotate", "--overwrite", "pod", "slow", f"{DELAY_ANNOTATION}=0")
    namespace.wait("the pod is gone", lambda: namespace.pod("slow") is None)


def test_a_job_with_a_native_sidecar_ends_and_one_with_an_injected_container_does_not(
    namespace: Namespace,
) -> None:
    proxy = {"name": "a-proxy", "image": "test/shell:1", "command": ["sh", "-c", "sleep 3600"]}
    main = {"name": "main", "image": "test/shell:1", "command": ["sh", "-c", "exit 0"]}
    specs = {
        "native": {"initContainers": [{**proxy, "restartPolicy": "Always"}], "containers": [main]},
        "injected": {"containers": [main, proxy]},
    }
    for name, spec in specs.items():
        template = {
            "metadata": {"labels": {"of": name}},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, **spec},
        }
        namespace.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": name},
                "spec": {"backoffLimit": 0, "template": template},
            }
        )
    path = f"/apis/batch/v1/namespaces/{namespace.name}/jobs/native"
    namespace.wait("the job is complete", lambda: namespace.api.get(path)["status"].get("succeeded") == 1)

    def statuses() -> list[dict[str, Any]]:
        found = namespace.pods("of=injected")
        return found[0]["status"].get("containerStatuses", []) if found else []

    namespace.wait("the work is done", lambda: any("terminated" in item["state"] for item in statuses()))
    assert [(item["name"], *item["state"]) for item in statuses()] == [
        ("a-proxy", "running"),
        ("main", "terminated"),
    ]
    (injected,) = namespace.pods("of=injected")
    assert injected["status"]["phase"] == "Running"


def test_pods_reach_each_other_by_headless_name(namespace: Namespace) -> None:
    rendezvous = """
import os, socket, sys, time
rank, peer = int(os.environ["RANK"]), os.environ["MASTER_ADDR"]
if rank == 0:
    with socket.create_server(("", 23456)) as server:
        connection, address = server.accept()
        connection.sendall(socket.gethostname().encode())
        print("peer", address[0])
else:
    while True:
        try:
            connection = socket.create_connection((peer, 23456), timeout=5)
            break
        except OSError:
            time.sleep(0.1)
    print("met", connection.recv(100).decode(), connection.getpeername()[0])
"""
    rank = {"name": "RANK", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['index']"}}}
    master = {"name": "MASTER_ADDR", "value": "x-worker-0"}
    container = {"image": "test/python", "command": None, "args": ["-c", rendezvous], "env": [rank, master]}
    for index in ("1", "0"):
        labels = {"job": "x", "index": index}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"x-worker-{index}"},
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"port": 23456}]},
        }
        namespace.apply(service, pod(f"x-worker-{index}", "", labels, container=container))
    first, second = (namespace.wait_phase(f"x-worker-{index}", "Succeeded", "Failed") for index in (0, 1))
    assert (ended(first)["exitCode"], ended(second)["exitCode"]) == (0, 0)
    assert namespace.kubectl("logs", "x-worker-1") == f"met x-worker-0 {first['status']['podIP']}\n"


def test_what_is_missing_is_told_in_the_status(namespace: Namespace) -> None:
    absent = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "id"}}}
    namespace.apply(
        pod("no-image", "", container={"image": "ghcr.io/none/such:1"}),
        pod("no-secret", "exit 0", container={"env": [absent]}),
        pod("no-program", "", container={"command": ["/nope"]}),
        pod("deadline", "sleep 60", activeDeadlineSeconds=1, terminationGracePeriodSeconds=1),
    )

    def waiting(name: str) -> dict[str, str]:
        statuses = (namespace.pod(name) or {}).get("status", {}).get("containerStatuses", [{}])
        return statuses[0].get("state", {}).get("waiting", {})

    pull = namespace.wait("the image is missed", lambda: waiting("no-image"))
    assert pull["reason"] in ("ErrImagePull", "ImagePullBackOff")
    assert 'image "ghcr.io/none/such:1" is not in the agent\'s table' in pull["message"]
    missed = namespace.wait("the secret is missed", lambda: waiting("no-secret"))
    assert missed == {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}
    assert ended(namespace.wait_phase("no-program", "Failed"))["reason"] == "StartError"
    assert namespace.wait_phase("deadline", "Failed")["status"]["reason"] == "DeadlineExceeded"
    namespace.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "data": {"id": "aWQ="}}
    )
    namespace.wait_phase("no-secret", "Succeeded")


def test_eviction_and_out_of_memory_look_as_in_a_cluster(namespace: Namespace) -> None:
    deaf = "trap '' TERM; while :; do sleep 0.05; done"
    graces = {"by-api": 600, "by-node": 1, "oom": 1}
    namespace.apply(*(pod(name, deaf, terminationGracePeriodSeconds=graces[name]) for name in graces))
    for name in graces:
        namespace.wait_phase(name, "Running")
    common = ["--kubeconfig", str(namespace.running.kubeconfig), namespace.name]
    for command in (["evict", *common, "by-api"], ["evict", "--by", "node", *common, "by-node"]):
        assert hooks.run(hooks.parser().parse_args(command)) == 0
    assert hooks.run(hooks.parser().parse_args(["oom-kill", *common, "oom", "main"])) == 0
    leaving = namespace.pod("by-api")
    assert leaving is not None
    reasons = {item["type"]: item.get("reason") for item in leaving["status"]["conditions"]}
    assert reasons["DisruptionTarget"] == "EvictionByEvictionAPI"
    assert (leaving["status"]["phase"], "deletionTimestamp" in leaving["metadata"]) == ("Running", True)
    evicted = namespace.wait_phase("by-node", "Failed")
    assert (evicted["status"]["reason"], ended(evicted)["exitCode"]) == ("Evicted", 137)
    killed = ended(namespace.wait_phase("oom", "Failed"))
    assert (killed["reason"], killed["exitCode"]) == ("OOMKilled", 137)


def test_a_crashing_container_is_restarted_and_its_previous_log_kept(namespace: Namespace) -> None:
    namespace.apply(pod("crash", "echo run $$$$; exit 3", restartPolicy="Always"))

    def restarted() -> dict[str, Any] | None:
        statuses = (namespace.pod("crash") or {}).get("status", {}).get("containerStatuses", [{}])
        looping = statuses[0].get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
        return statuses[0] if looping else None

    status = namespace.wait("the container is in back-off", restarted)
    assert (status["restartCount"], status["lastState"]["terminated"]["exitCode"]) == (1, 3)
    assert namespace.kubectl("logs", "--previous", "crash") == "run 1\n"


def test_a_projected_label_file_follows_the_label(namespace: Namespace) -> None:
    volume = {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}
    namespace.apply(
        pod(
            "labels",
            "until grep -q green /info/labels; do sleep 0.1; done",
            {"colour": "blue"},
            container={"volumeMounts": [{"name": "info", "mountPath": "/info"}]},
            volumes=[{"name": "info", **volume}],
        )
    )
    namespace.wait_phase("labels", "Running")
    namespace.kubectl("label", "--overwrite", "pod", "labels", "colour=green")
    assert ended(namespace.wait_phase("labels", "Succeeded", "Failed"))["exitCode"] == 0


def over(namespace: Namespace, name: str) -> dict[str, Any] | None:
    item = namespace.pod(name)
    return item if item and item["status"].get("phase") in {"Succeeded", "Failed"} else None


def test_a_mounted_secret_that_is_renewed_is_seen_by_the_pod(namespace: Namespace) -> None:
    """Within the time for which a kubelet would let it wait, without a restart; the new files come all at once."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}}
    namespace.apply({**secret, "stringData": {"user": "old", "word": "old"}})
    namespace.apply(
        pod(
            "reader",
            "until grep -q new /keys/user; do sleep 0.1; done; exec cat /keys/word",
            container={"volumeMounts": [{"name": "keys", "mountPath": "/keys"}]},
            volumes=[{"name": "keys", "secret": {"secretName": "keys"}}],
        )
    )
    namespace.wait_phase("reader", "Running")
    namespace.apply({**secret, "stringData": {"user": "new", "word": "new"}})
    reader = namespace.wait("the pod sees its new keys", lambda: over(namespace, "reader"), RENEWAL)
    assert ended(reader)["exitCode"] == 0
    assert reader["status"]["containerStatuses"][0]["restartCount"] == 0
    assert namespace.kubectl("logs", "reader").strip() == "new"


def lease_renewal(namespace: Namespace, node: str) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
    return namespace.api.get(path)["spec"]["renewTime"]


def silence(namespace: Namespace, node: str) -> str:
    """The renewal that stays the last one for longer than a heartbeat takes."""

    def unchanged() -> str | None:
        before = lease_renewal(namespace, node)
        time.sleep(HEARTBEAT_SECONDS + 1)
        return before if lease_renewal(namespace, node) == before else None

    return namespace.wait("the node falls silent", unchanged)


@pytest.fixture
def lose_node(control_plane: cluster.Cluster) -> Iterator[Callable[[bool], None]]:
    """Cuts the node off, or connects it again."""
    toggle = control_plane.node_lost()
    yield lambda lost: toggle.touch() if lost else toggle.unlink()
    toggle.unlink(missing_ok=True)


def test_a_lost_node_is_silent_and_deaf_until_it_is_back(
    namespace: Namespace, lose_node: Callable[[bool], None], tmp_path: Path
) -> None:
    (node,) = (item["metadata"]["name"] for item in namespace.api.get("/api/v1/nodes")["items"])
    shared = {
        "volumes": [{"name": "d", "hostPath": {"path": str(tmp_path)}}],
        "container": {"volumeMounts": [{"name": "d", "mountPath": "/d"}]},
        "terminationGracePeriodSeconds": 1,
    }
    save = "trap 'echo asked > /d/asked; exit 0' TERM; while :; do date +%s%N > /d/step; sleep 0.05; done"
    namespace.apply(
        pod("ends", "until [ -e /d/end ]; do sleep 0.05; done; echo > /d/ended", **shared),
        pod("saves", save, **shared),
    )
    for name in ("ends", "saves"):
        namespace.wait_phase(name, "Running")
    namespace.wait("the first step", (tmp_path / "step").exists)
    lose_node(True)
    (tmp_path / "end").touch()
    namespace.api.request("DELETE", f"{PODS.format(namespace.name)}/saves")
    last = silence(namespace, node)
    namespace.wait("the end of the container", (tmp_path / "ended").exists)
    step = (tmp_path / "step").read_text()
    namespace.wait("the deleted pod goes on", lambda: (tmp_path / "step").read_text() != step)
    silent, leaving = namespace.pod("ends"), namespace.pod("saves")
    assert silent is not None
    assert silent["status"]["phase"] == "Running", "the end of the container is not reported"
    assert leaving is not None
    assert "deletionTimestamp" in leaving["metadata"]
    assert not (tmp_path / "asked").exists()
    lose_node(False)
    namespace.wait("the heartbeat is back", lambda: lease_renewal(namespace, node) != last)
    namespace.wait_phase("ends", "Succeeded")
    namespace.wait("the deleted pod is gone", lambda: namespace.pod("saves") is None)
    assert (tmp_path / "asked").exists()


@pytest.fixture
def second_node(namespace: Namespace) -> Iterator[str]:
    """The path of a node that a test may register; it is gone afterwards."""
    path = "/api/v1/nodes/second"
    yield path
    if namespace.api.find(path):
        namespace.api.request("DELETE", path)


@contextlib.contextmanager
def second_agent(namespace: Namespace, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    flags = {
        "kubeconfig": namespace.running.kubeconfig,
        "node-name": "second",
        "node-ip": "127.251.3.3",
        "pod-cidr": "127.251.3.0/24",
        "state-dir": folder / "state",
        "images": namespace.running.dir / "images.json",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with (folder / "agent.log").open("ab") as log:
        agent = subprocess.Popen([sys.executable, "-m", "devcluster.agent", *words], stdout=log, stderr=log)
        try:
            yield agent
        finally:
            agent.terminate()
            agent.wait(WAIT)


def test_a_killed_agent_takes_its_containers_along_and_reports_them_when_it_is_back(
    namespace: Namespace, second_node: str, tmp_path: Path
) -> None:
    log = tmp_path / "runs"
    log.mkdir()
    shared = {
        "nodeName": "second",
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "d", "hostPath": {"path": str(log)}}],
        "container": {"volumeMounts": [{"name": "d", "mountPath": "/runs"}]},
    }
    script = (
        f": from {log}; "
        + "echo x >> /runs/$(hostname); while :; do date +%s%N > /runs/alive-$(hostname); sleep 0.05; done"
    )
    with second_agent(namespace, tmp_path) as agent:
        namespace.wait("the second node is there", lambda: namespace.api.find(second_node))
        namespace.apply(pod("once", script, **shared), pod("again", script, restartPolicy="Always", **shared))
        for name in ("once", "again"):
            namespace.wait_phase(name, "Running")
            namespace.wait(f"{name} runs", (log / f"alive-{name}").exists)
        agent.kill()
        agent.wait(WAIT)
        namespace.wait("the containers have ended with it", lambda: not processes_of(f"from {log}"))
        stopped = (log / "alive-once").read_text()
    with second_agent(namespace, tmp_path):
        failed = namespace.wait_phase("once", "Failed")
        namespace.wait("the other is started again", lambda: (log / "again").read_text() == "x\nx\n")
        restarted = namespace.wait_phase("again", "Running")
        for name in ("once", "again"):
            namespace.api.request("DELETE", f"{PODS.format(namespace.name)}/{name}")
        namespace.wait("both pods are gone", lambda: not namespace.pods())
    assert (log / "alive-once").read_text() == stopped
    assert ((log / "once").read_text(), ended(failed)["reason"]) == ("x\n", "ContainerStatusUnknown")
    assert restarted["status"]["containerStatuses"][0]["restartCount"] == 1


def test_the_node_is_what_it_claims(namespace: Namespace) -> None:
    (node,) = namespace.api.get("/api/v1/nodes")["items"]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    ready = next(item for item in node["status"]["conditions"] if item["type"] == "Ready")
    assert ready["status"] == "True"
    assert os.cpu_count() == int(node["status"]["capacity"]["cpu"])
