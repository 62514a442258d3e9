"""Volumes, logs, hosts files, images, addresses, probes: what the agent keeps for a pod."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devcluster.agent import images, logs
from devcluster.agent.containers import Waiting
from devcluster.agent.env import ConfigError, Context
from devcluster.agent.hosts import Endpoint, endpoint_of, render
from devcluster.agent.launch import argv, identity
from devcluster.agent.node import NodeSpec, labels, own_labels, parse_pairs
from devcluster.agent.probes import Tally, port_number
from devcluster.agent.resources import ExhaustedError, address_pool, gpu_pool
from devcluster.agent.root import Mount
from devcluster.agent.shim import MAX_LINE, LogStream
from devcluster.agent.volumes import PodVolumes, VolumeError, as_user, container_mounts, write_atomically

POD = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
    "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "2Gi"}}}]},
}


class Cluster:
    """What volumes read, from dictionaries."""

    def config_map(self, name: str) -> dict[str, bytes] | None:
        return {"cm": {"run.yaml": b"x: 1\n", "more": b"m"}, "kube-root-ca.crt": {"ca.crt": b"CA"}}.get(name)

    def secret(self, name: str) -> dict[str, bytes] | None:
        return {"s": {"key": b"\x00\xff"}}.get(name)

    def claim_path(self, claim: str) -> str | None:
        return None

    def token(self, pod, audience: str | None, seconds: int) -> bytes:
        return f"{pod['metadata']['uid']}/{audience}/{seconds}".encode()


def volumes(folder: Path, *declared: dict) -> PodVolumes:
    pod = {**POD, "spec": {**POD["spec"], "volumes": list(declared)}}
    context = Context(
        pod=pod,
        pod_ip="127.0.0.10",
        host_ip="",
        allocatable={},
        config_map=lambda _: None,
        secret=lambda _: None,
    )
    return PodVolumes(folder=folder, pod=pod, context=context, source=Cluster())


def visible(path: str) -> dict[str, bytes]:
    """What a program sees in a volume; names that begin with two dots are the mechanism."""
    root = Path(path)
    names = [entry.name for entry in root.iterdir() if not entry.name.startswith("..")]
    files = [
        file
        for name in names
        for file in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
    ]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ({"configMap": {"name": "cm"}}, {"run.yaml": b"x: 1\n", "more": b"m"}),
        ({"configMap": {"name": "cm", "items": [{"key": "more", "path": "d/e"}]}}, {"d/e": b"m"}),
        ({"configMap": {"name": "gone", "optional": True}}, {}),
        ({"secret": {"secretName": "s"}}, {"key": b"\x00\xff"}),
        ({"emptyDir": {}}, {}),
        (
            {
                "downwardAPI": {
                    "items": [
                        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                        {
                            "path": "memory",
                            "resourceFieldRef": {
                                "containerName": "c",
                                "resource": "limits.memory",
                                "divisor": "1Gi",
                            },
                        },
                    ]
                }
            },
            {"labels": b'a="b"', "memory": b"2"},
        ),
        (
            {
                "projected": {
                    "sources": [
                        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "x"}},
                        {
                            "configMap": {
                                "name": "kube-root-ca.crt",
                                "items": [{"key": "ca.crt", "path": "ca.crt"}],
                            }
                        },
                        {
                            "downwardAPI": {
                                "items": [
                                    {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
                                ]
                            }
                        },
                        {"secret": {"name": "s"}},
                    ]
                }
            },
            {"token": b"u/x/600", "ca.crt": b"CA", "namespace": b"n", "key": b"\x00\xff"},
        ),
    ],
)
def test_a_volume_holds_what_it_is_made_from(
    tmp_path: Path, volume: dict, expected: dict[str, bytes]
) -> None:
    paths = volumes(tmp_path, {"name": "v", **volume}).paths()
    assert visible(paths["v"]) == expected


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "gone"}}, 'configmap "gone" not found'),
        ({"secret": {"secretName": "gone"}}, 'secret "gone" not found'),
        ({"configMap": {"name": "cm", "items": [{"key": "k", "path": "p"}]}}, "non-existent config key: k"),
        ({"persistentVolumeClaim": {"claimName": "c"}}, 'claim "c" is not bound'),
        ({"nfs": {}}, "type nfs is not supported"),
        ({"hostPath": {"path": "/nowhere/at/all", "type": "Directory"}}, "is not of type Directory"),
    ],
)
def test_a_volume_that_can_not_be_made_says_why(tmp_path: Path, volume: dict, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        volumes(tmp_path, {"name": "v", **volume}).paths()


@pytest.mark.parametrize(("context", "mode"), [(None, 0o777), ({"fsGroup": 7}, 0o2777)])
def test_an_empty_folder_is_everybodys_and_passes_its_group_on(
    tmp_path: Path, context: dict | None, mode: int
) -> None:
    made = volumes(tmp_path, {"name": "v", "emptyDir": {}})
    made.pod["spec"]["securityContext"] = context
    assert Path(made.paths()["v"]).stat().st_mode & 0o7777 == mode


def test_only_the_roots_of_claims_are_closed_to_users_who_are_not_root(tmp_path: Path) -> None:
    claim, other = tmp_path / "claim", tmp_path / "other"
    for folder in (claim, other):
        (folder / "lost+found").mkdir(parents=True)
    (claim / "sub").mkdir()

    def mount(source: Path, target: str) -> Mount:
        return {"source": str(source), "target": target, "read_only": False}

    mounts = [mount(claim, "/a/"), mount(claim / "sub", "/b"), mount(other, "/c")]
    closed: Mount = {"source": "/closed", "target": "/a/lost+found", "read_only": True}
    assert as_user(mounts, [str(claim)], group=7, closed="/closed") == [mounts[0], closed, *mounts[1:]]
    read_only = [item["read_only"] for item in as_user(mounts, [str(claim)], group=None, closed="/closed")]
    assert read_only == [True, True, True, False]
    claim.chmod(0o777)
    assert as_user(mounts, [str(claim)], group=None, closed="/closed")[0] == mounts[0]


def test_content_changes_in_one_step_and_leaves_no_old_files(tmp_path: Path) -> None:
    write_atomically(tmp_path, {"a": b"1", "b": b"2"})
    first = (tmp_path / "..data").readlink()
    write_atomically(tmp_path, {"a": b"1", "b": b"2"})
    assert (tmp_path / "..data").readlink() == first, "unchanged content is not written again"
    write_atomically(tmp_path, {"a": b"3", "c": b"4"})
    assert visible(str(tmp_path)) == {"a": b"3", "c": b"4"}
    assert not (tmp_path / first).exists()


def test_mounts_follow_sub_paths_and_stay_inside_the_volume(tmp_path: Path) -> None:
    container = {
        "volumeMounts": [
            {"name": "v", "mountPath": "/a", "subPathExpr": "run-$(N)"},
            {"name": "w", "mountPath": "/b", "readOnly": True},
            {"name": "cm", "mountPath": "/c"},
        ]
    }
    paths = {name: str(tmp_path / name) for name in ("v", "w", "cm")}
    assert container_mounts(container, paths, {"N": "7"}, ["cm"]) == [
        {"source": f"{tmp_path}/v/run-7", "target": "/a", "read_only": False},
        {"source": f"{tmp_path}/w", "target": "/b", "read_only": True},
        {"source": f"{tmp_path}/cm", "target": "/c", "read_only": True},
    ]
    escape = {"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "../w"}]}
    with pytest.raises(VolumeError, match="leads out of its volume"):
        container_mounts(escape, paths, {}, [])


NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
STAMP = b"2026-01-02T03:04:05.678901000Z"


def test_log_records_are_cut_at_line_ends_and_at_the_limit() -> None:
    stream = LogStream("stdout")
    assert stream.records(b"one\ntw", NOW) == STAMP + b" stdout F one\n"
    assert stream.records(b"o\n\n", NOW) == STAMP + b" stdout F two\n" + STAMP + b" stdout F \n"
    long = stream.records(b"x" * (MAX_LINE + 1), NOW)
    assert long == STAMP + b" stdout P " + b"x" * MAX_LINE + b"\n"
    assert stream.last_record(NOW) == STAMP + b" stdout F x\n"
    assert stream.last_record(NOW) == b""


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, b"a\nbc\nd\n"),
        ({"tailLines": "1"}, b"d\n"),
        ({"tailLines": "0"}, b""),
        ({"limitBytes": "3"}, b"a\nb"),
        ({"sinceSeconds": "60"}, b"bc\nd\n"),
        ({"timestamps": "true", "tailLines": "1"}, b"2026-01-02T03:04:05.000000000Z d\n"),
    ],
)
def test_logs_are_read_as_asked_for(tmp_path: Path, query: dict[str, str], expected: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(
        b"2026-01-02T03:00:00.000000000Z stdout F a\n"
        b"2026-01-02T03:04:04.000000000Z stdout P b\n"
        b"2026-01-02T03:04:04.000000000Z stdout F c\n"
        b"2026-01-02T03:04:05.000000000Z stderr F d\n"
    )
    options = logs.LogOptions.from_query(query, NOW)
    assert b"".join(logs.read(path, options, lambda: False)) == expected


def test_following_goes_on_until_the_container_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(STAMP + b" stdout F 0\n")
    states = iter([True, True, False])

    def running() -> bool:
        state = next(states)
        with path.open("ab") as file:
            file.write(STAMP + b" stdout F more\n")
        return state

    assert b"".join(logs.read(path, logs.LogOptions(follow=True), running)) == b"0\nmore\nmore\nmore\n"


def test_the_termination_message_is_the_end_of_its_file_or_of_the_log(tmp_path: Path) -> None:
    message, log = tmp_path / "termination-log", tmp_path / "log"
    log.write_bytes(STAMP + b" stderr F it broke\n")
    message.write_bytes(b"x" * 5000 + b"end")
    said = logs.termination_message(message, log, "File", 1)
    assert (len(said), said[-4:]) == (4096, "xend")
    message.write_bytes(b"")
    assert logs.termination_message(message, log, "File", 1) == ""
    assert logs.termination_message(message, log, "FallbackToLogsOnError", 0) == ""
    assert logs.termination_message(message, log, "FallbackToLogsOnError", 1) == "it broke\n"


def service(name: str, namespace: str = "n", **spec) -> dict:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def test_the_hosts_file_names_every_service_with_a_ready_pod() -> None:
    viewer = Endpoint(namespace="n", name="p", ip="127.0.2.10", ready=True, labels={"a": "b"})
    worker = Endpoint(namespace="n", name="w", ip="127.0.2.11", ready=True, labels={"job": "x"})
    starting = Endpoint(namespace="n", name="s", ip="127.0.2.12", ready=False, labels={"job": "y"})
    indexed = Endpoint(
        namespace="n",
        name="j",
        ip="127.0.2.13",
        ready=True,
        labels={"job": "z"},
        hostname="j-0",
        subdomain="many",
    )
    services = [
        service("x-worker-0", selector={"job": "x"}, clusterIP="None"),
        service("unready", selector={"job": "y"}),
        service("early", selector={"job": "y"}, publishNotReadyAddresses=True),
        service("elsewhere", "m", selector={"job": "x"}),
        service("s3", "m", type="ExternalName", externalName="127.0.1.9"),
        service("web", "m", type="ExternalName", externalName="example.org"),
        service("kubernetes", "default"),
        service("many", selector={"job": "z"}),
    ]
    assert render(viewer, services, [viewer, worker, starting, indexed], api_server="127.0.1.1").splitlines()[
        1:
    ] == [
        "127.0.0.1 localhost",
        "127.0.2.10 p",
        "127.0.1.1 kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local",
        "127.0.1.9 s3.m s3.m.svc s3.m.svc.cluster.local",
        "127.0.2.12 early early.n early.n.svc early.n.svc.cluster.local",
        "127.0.2.13 many many.n many.n.svc many.n.svc.cluster.local",
        "127.0.2.13 j-0.many j-0.many.n j-0.many.n.svc j-0.many.n.svc.cluster.local",
        "127.0.2.11 x-worker-0 x-worker-0.n x-worker-0.n.svc x-worker-0.n.svc.cluster.local",
    ]


def test_a_pod_of_another_node_is_known_by_its_status() -> None:
    ready = {"type": "Ready", "status": "True"}
    status = {"podIP": "127.0.2.9", "phase": "Running", "conditions": [ready]}
    known = {**POD, "status": status}
    expected = Endpoint(namespace="n", name="p", ip="127.0.2.9", ready=True, labels={"a": "b"}, hostname="p")
    assert endpoint_of(known) == expected
    leaving = {**known, "metadata": {**POD["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert endpoint_of(leaving) == replace(expected, ready=False)
    assert endpoint_of(POD) is None
    assert endpoint_of({**known, "status": {**status, "phase": "Failed"}}) is None, (
        "another pod may have its address"
    )


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("ghcr.io:443/m/trainer:v1", "tagged"),
        ("ghcr.io:443/m/trainer:v2", "any"),
        ("ghcr.io:443/m/trainer@sha256:00", "any"),
        ("ghcr.io:443/m/trainer", "any"),
    ],
)
def test_an_image_is_found_exactly_or_by_its_repository(reference: str, expected: str) -> None:
    table = {
        "ghcr.io:443/m/trainer:v1": {"entrypoint": ["tagged"]},
        "ghcr.io:443/m/trainer": {"entrypoint": ["any"]},
    }
    assert images.find(table, reference, "t").entrypoint == (expected,)


def test_an_unknown_image_is_named_with_the_table(tmp_path: Path) -> None:
    with pytest.raises(images.ImageError, match=r'image "x:1" is not in the agent.s table here'):
        images.find({}, "x:1", "here")
    with pytest.raises(images.ImageError, match="can not be read"):
        images.ImageTable(tmp_path / "absent.json").find("x")


@pytest.mark.parametrize("reference", ["", "X", "x:", "a b", "ghcr.io/Upper/x", "x@y@z"])
def test_an_image_name_that_is_none_is_not_looked_up(reference: str) -> None:
    with pytest.raises(images.ImageError) as caught:
        images.find({}, reference, "t")
    assert images.pull_failed(Waiting(), reference, caught.value)[0].reason == "InvalidImageName"


def test_a_failed_pull_and_the_pause_after_it_are_told_in_turn() -> None:
    error = images.ImageError("no such image")
    seen, state = [], Waiting()
    for _ in range(4):
        state, pause = images.pull_failed(state, "x:1", error)
        seen.append((state.reason, state.message, pause))
    failed = ("ErrImagePull", "no such image", images.PULL_SHOWN)
    message = 'Back-off pulling image "x:1": ErrImagePull: no such image'
    assert seen == 2 * [failed, ("ImagePullBackOff", message, images.PULL_PAUSE)]


def test_command_replaces_the_entry_point_and_arguments_follow_it() -> None:
    image = images.find({"x": {"entrypoint": ["/run", "$(A)"]}}, "x", "t")
    assert argv({"name": "c", "args": ["$(A)"]}, image, {"A": "1"}) == ["/run", "1", "1"]
    assert argv({"name": "c", "command": ["/other"], "args": ["y"]}, image, {}) == ["/other", "y"]
    with pytest.raises(ConfigError, match="no command specified"):
        argv({"name": "c"}, images.find({"x": {}}, "x", "t"), {})


def test_the_containers_security_context_overrides_the_pods_and_the_images_user() -> None:
    image = images.find({"x": {"user": 7}}, "x", "t")
    in_pod = {"metadata": POD["metadata"], "spec": {"securityContext": {"runAsUser": 8, "runAsGroup": 9}}}
    assert identity(POD, {"name": "c"}, image) == (7, 0)
    assert identity(in_pod, {"name": "c"}, image) == (8, 9)
    assert identity(in_pod, {"name": "c", "securityContext": {"runAsUser": 10}}, image) == (10, 9)
    with pytest.raises(ConfigError, match="runAsNonRoot and image will run as root"):
        identity(POD, {"name": "c", "securityContext": {"runAsUser": 0, "runAsNonRoot": True}}, image)


def test_addresses_are_unique_and_reused_as_late_as_possible() -> None:
    pool = address_pool("127.4.5.0/24")
    assert pool.take("a") == ["127.4.5.10"]
    assert pool.take("a") == ["127.4.5.10"]
    pool.reserve("b", "127.4.5.11")
    assert pool.take("c") == ["127.4.5.12"]
    pool.give_back("a")
    assert pool.take("d") == ["127.4.5.13"]
    with pytest.raises(ValueError, match="has 16 addresses"):
        address_pool("127.4.5.0/28")


def test_no_gpu_is_given_twice() -> None:
    pool = gpu_pool(4)
    assert {*pool.take("a", 2), *pool.take("b", 2)} == {"0", "1", "2", "3"}
    with pytest.raises(ExhaustedError, match="GPUs: 1 wanted, 0 left"):
        pool.take("c", 1)


def test_a_probe_turns_at_its_thresholds() -> None:
    spec = {"failureThreshold": 2, "successThreshold": 1}
    verdicts, tally = [], Tally()
    for passed in (False, True, False, False, True):
        tally = tally.add(passed, spec)
        verdicts.append(tally.verdict)
    assert verdicts == [None, True, True, False, True]


def test_probe_ports_may_be_names() -> None:
    container = {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}
    assert [port_number(port, container) for port in (80, "81", "http")] == [80, 81, 8080]
    with pytest.raises(ValueError, match="no port named 'grpc'"):
        port_number("grpc", container)


def test_capacity_and_labels_are_read_from_text() -> None:
    assert parse_pairs("cpu=8, nvidia.com/gpu=8,", "capacity") == {"cpu": "8", "nvidia.com/gpu": "8"}
    with pytest.raises(ValueError, match="label 'cpu' has no '='"):
        parse_pairs("cpu", "label")


def test_a_node_is_labelled_as_asked_for_and_keeps_only_its_own_labels_for_good() -> None:
    node = NodeSpec(
        name="n", ip="", capacity={"nvidia.com/gpu": "2"}, labels={"nvidia.com/gpu.product": "L4"}
    )
    made = labels(node)
    assert (made["nvidia.com/gpu.product"], made["nvidia.com/gpu.count"]) == ("L4", "2")
    assert made.keys() - own_labels(node).keys() == {"nvidia.com/gpu.product", "nvidia.com/gpu.count"}
