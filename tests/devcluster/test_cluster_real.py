"""Whole clusters: start, side by side, and every way to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from devcluster import addresses, binaries, cluster, processes, state
from tests.devcluster.running import processes_of

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def programs() -> None:
    """A cold build takes many minutes: it is asked for, never a surprise inside a test."""
    names = [name for tool in binaries.CLUSTER_TOOLS for name in tool.packages]
    missing = [name for name in names if binaries.find(name) is None]
    if missing:
        pytest.fail(f"{missing[0]} is not built yet: run `make setup`")


def kubectl(
    running: cluster.Cluster, *arguments: str, document: object = None
) -> subprocess.CompletedProcess[str]:
    """Run kubectl against the cluster."""
    return subprocess.run(
        [running.kubectl, *arguments],
        env=running.env(),
        input=None if document is None else json.dumps(document),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def pytorchjob(**container: str) -> dict[str, object]:
    template = {"spec": {"containers": [{"name": "pytorch", **container}]}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "probe"},
        "spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 1, "template": template}}},
    }


START_LIMIT = 120.0
"""Seconds after which a start that a test waits for is killed, so that no test hangs on its output."""
Starting = tuple[subprocess.Popen[str], Path]


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Starting]:
    """`up` in a process group of its own, started as a background job is: with SIGINT ignored. Ends with the test."""
    folder = tmp_path / "c"
    up = subprocess.Popen(
        ["bash", "-c", 'trap "" INT; exec "$@"', "bash", sys.executable, "-m", "devcluster", "up", "--dir", folder],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    limit = threading.Timer(START_LIMIT, up.kill)
    limit.start()
    with up:
        try:
            yield up, folder
        finally:
            limit.cancel()
            up.kill()
            cluster.down(folder)


def wait_for_line(stream: IO[str] | None, text: str) -> list[str]:
    """Read lines until one holds `text`."""
    lines = []
    for line in stream or ():
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"no line with {text!r} in {lines}")


def test_the_start_says_how_long_it_took(control_plane: cluster.Cluster, start_lines: list[str]) -> None:
    assert re.search(r"is up after [\d.]+ s$", start_lines[-1])


def test_every_part_runs_and_status_says_so(control_plane: cluster.Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devcluster", "status", "--dir", control_plane.dir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [
        "PART",
        "supervisor",
        "etcd",
        "kube-apiserver",
        "s3",
        "training-operator",
        "kube-controller-manager",
        "kube-scheduler",
        "agent",
    ]
    assert all("running" in row for row in rows[1:])
    assert done.returncode == 0


def test_a_second_up_returns_the_same_cluster(control_plane: cluster.Cluster) -> None:
    before = state.read(control_plane.dir)
    said: list[str] = []
    again = cluster.up(cluster.Config(name="tests", dir=control_plane.dir), said.append)
    assert again == control_plane
    assert said == ["cluster tests runs already"]
    assert state.read(control_plane.dir) == before


def test_the_server_reports_its_pinned_version(control_plane: cluster.Cluster) -> None:
    version = json.loads(kubectl(control_plane, "version", "-o", "json").stdout)["serverVersion"]
    assert version["gitVersion"] == binaries.tool_of("kubectl").version


def test_a_valid_pytorchjob_is_admitted_and_a_bad_one_refused(control_plane: cluster.Cluster) -> None:
    dry_run = ("create", "--dry-run=server", "-f", "-")
    good = kubectl(control_plane, *dry_run, document=pytorchjob(image="probe"))
    assert good.stdout == "pytorchjob.kubeflow.org/probe created (server dry run)\n", good.stderr
    bad = kubectl(control_plane, *dry_run, document=pytorchjob())
    assert bad.returncode == 1
    assert 'admission webhook "validator.pytorchjob.training-operator.kubeflow.org" denied' in bad.stderr


def test_rbac_and_pod_security_are_on(control_plane: cluster.Cluster) -> None:
    account = "--as=system:serviceaccount:default:default"
    assert kubectl(control_plane, "auth", "can-i", "list", "pods", account).stdout == "no\n"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}}
    assert kubectl(control_plane, "apply", "-f", "-", document=space).returncode == 0
    refused = kubectl(control_plane, "run", "root", "--image=probe", "-n", "strict")
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr


def test_the_object_store_wants_its_keys(control_plane: cluster.Cluster) -> None:
    assert control_plane.s3.pod_endpoint == "http://s3.devcluster.svc:7070"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{control_plane.s3.endpoint}/bucket", timeout=5)
    refused.value.close()
    assert refused.value.code in {403, 404}


def test_secrets_are_readable_by_their_owner_only(control_plane: cluster.Cluster) -> None:
    assert control_plane.dir.stat().st_mode & 0o077 == 0
    for path in (
        control_plane.kubeconfig,
        *control_plane.dir.glob("credentials/*"),
        control_plane.dir / state.MARKER,
    ):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has a cluster of its own, in a folder."""
    folder = tmp_path / "owned"
    script = textwrap.dedent(
        f"""
        import pathlib, time
        from devcluster import cluster
        with cluster.running(cluster.Config(name="owned", dir=pathlib.Path({str(folder)!r}))):
            print("up", flush=True)
            time.sleep(300)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    limit = threading.Timer(START_LIMIT, child.kill)
    limit.start()
    with child:
        try:
            yield child, folder
        finally:
            limit.cancel()
            child.kill()
            cluster.down(folder)


def test_a_cluster_beside_another_ends_with_its_killed_owner(
    control_plane: cluster.Cluster, owner: tuple[subprocess.Popen[str], Path]
) -> None:
    process, folder = owner
    wait_for_line(process.stdout, "up")
    first, second = state.read(control_plane.dir), state.read(folder)
    assert first is not None
    assert second is not None
    assert {part.address for part in first.parts}.isdisjoint(
        part.address for part in second.parts if ":" in part.address
    )
    supervisor = second.supervisor
    below = processes.descendants(supervisor.pid)
    assert len(below) >= len(second.parts)
    with pytest.raises(cluster.ClusterError, match=f"belongs to process {process.pid}, which still runs"):
        cluster.up(cluster.Config(name="owned", dir=folder))
    process.kill()
    assert processes.wait_until(lambda: not supervisor.alive(), cluster.STOP_GRACE)
    assert not any(item.alive() for item in below)
    assert processes_of(folder) == []
    assert not folder.exists()
    assert kubectl(control_plane, "get", "nodes", "-o", "name").stdout == "node/devcluster-0\n"


def test_ctrl_c_in_the_middle_of_up_leaves_nothing(starting: Starting, tmp_path: Path) -> None:
    up, folder = starting
    wait_for_line(up.stderr, "the API server answers")
    os.killpg(up.pid, signal.SIGINT)
    assert up.wait(cluster.STOP_GRACE) == 130
    assert processes_of(folder) == []
    assert list(tmp_path.iterdir()) == []


def test_parts_die_with_a_killed_supervisor_and_down_removes_the_rest(
    starting: Starting, tmp_path: Path
) -> None:
    up, folder = starting
    wait_for_line(up.stderr, "the API server answers")
    found = state.read(folder)
    assert found is not None
    up.kill()
    processes.send([found.supervisor], signal.SIGKILL)
    assert len(found.parts) >= 3
    assert processes.wait_until(lambda: processes_of(folder) == [], cluster.STOP_GRACE)
    assert cluster.down(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_fails_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "etcd").write_text("#!/bin/sh\necho the disk is on fire\nexit 7\n")
    (broken / "etcd").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "devcluster", "up", "--dir", tmp_path / "c"],
        cwd=ROOT,
        env={**os.environ, "DEVCLUSTER_BIN": str(broken)},
        capture_output=True,
        text=True,
        timeout=START_LIMIT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("etcd ended with code 7; the end of its log:\n  the disk is on fire\n")
    assert not (tmp_path / "c").exists()


def test_a_taken_port_does_not_stop_a_cluster() -> None:
    taken = addresses.Endpoint("127.9.9.1", 6443)
    said: list[str] = []
    found = addresses.allocate("127.9.9", 20000, said.append, free=lambda endpoint: endpoint != taken)
    assert found.apiserver.port != 6443
    assert said == [f"port 6443 of 127.9.9.1 is taken by another program; using {found.apiserver.port}"]
