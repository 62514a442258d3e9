"""The operator's calls against a real API server: what it says, what we understand, and logins by plugin."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from devcluster import cluster
from mochi_operator.apiserver import PAGE, ApiServer
from mochi_operator.cluster import (
    CONFIGMAPS,
    EVENTS,
    FINETUNES,
    JOBS,
    PODS,
    AlreadyExistsError,
    Cause,
    Kind,
    Manifest,
    NotServedError,
    RefusedError,
    StaleError,
    UnavailableError,
)
from mochi_operator.connection import Connector, Login
from mochi_operator.observe import newest_warning
from mochi_operator.verdicts.quotas import misfit

NAMESPACES = Kind("", "v1", "namespaces", "Namespace")
QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")
LIMITS = Kind("", "v1", "limitranges", "LimitRange")
ACCOUNTS = Kind("", "v1", "serviceaccounts", "ServiceAccount")
_ADMISSION = "admissionregistration.k8s.io"
POLICIES = Kind(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
BINDINGS = Kind(_ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding")
WEBHOOKS = Kind(_ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration")
PLACE = "api"
LIMIT_SECONDS = 180.0
T = TypeVar("T")


@pytest.fixture(scope="module")
def plane(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    """A cluster with the CRD and without the operator."""
    folder = tmp_path_factory.mktemp("api")
    images = folder / "images.json"
    images.write_text(json.dumps({"shell:1": {"entrypoint": ["/bin/sh", "-c"], "env": {}}}))
    with cluster.running(cluster.Config(name="api", dir=folder / "cluster", images=images)) as found:
        kubectl(found, "apply", "-f", str(project / "crds" / "mochifinetunes.yaml"))
        kubectl(found, "create", "namespace", PLACE)
        yield found


def kubectl(plane: cluster.Cluster, *args: str) -> str:
    """What kubectl prints."""
    command = [str(plane.kubectl), *args]
    return subprocess.run(
        command, env=plane.env(), check=True, capture_output=True, text=True, timeout=30
    ).stdout


@asynccontextmanager
async def calls(kubeconfig: Path) -> AsyncIterator[ApiServer]:
    connector = Connector(Login({"KUBECONFIG": str(kubeconfig)}))
    try:
        yield ApiServer(connector)
    finally:
        await connector.close()


@pytest.fixture
async def api(plane: cluster.Cluster) -> AsyncIterator[ApiServer]:
    """Calls of somebody who may do everything."""
    async with calls(plane.kubeconfig) as made:
        yield made


def job(name: str, **container: object) -> Manifest:
    inner = {"name": "trainer", "image": "shell:1", "args": ["echo one; echo two; sleep 300"], **container}
    pod = {"restartPolicy": "Never", "containers": [inner]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


def pod(name: str, **spec: object) -> Manifest:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "shell:1"}], **spec}}


async def eventually(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """The first answer that holds."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            found = await ask()
            if holds(found):
                return found
            await asyncio.sleep(0.2)


async def refusal(call: Awaitable[object]) -> RefusedError:
    with pytest.raises(RefusedError) as error:
        await call
    return error.value


async def told(call: Callable[[], Awaitable[object]], cause: Cause, words: str) -> RefusedError:
    """The refusal, once the server knows the rule that it comes from."""

    async def ask() -> RefusedError | None:
        try:
            await call()
        except RefusedError as error:
            return error
        return None

    error = await eventually(ask, lambda found: found is not None)
    assert error is not None
    assert (error.cause, words in error.words) == (cause, True), error.words
    return error


async def test_an_object_is_created_read_listed_and_deleted_by_uid(api: ApiServer) -> None:
    await api.create(JOBS, PLACE, job("one"))
    with pytest.raises(AlreadyExistsError):
        await api.create(JOBS, PLACE, job("one"))
    found = await api.get(JOBS, PLACE, "one")
    assert found is not None
    assert [item["kind"] for item in await api.list(JOBS, None, fields={"metadata.name": "one"})] == ["Job"]
    await api.delete(JOBS, PLACE, "one", uid="another")
    assert await api.get(JOBS, PLACE, "one") is not None
    await api.delete(JOBS, PLACE, "one", uid=found["metadata"]["uid"])
    await api.delete(JOBS, PLACE, "none", uid="u")
    await eventually(lambda: api.get(JOBS, PLACE, "one"), lambda left: left is None)


async def test_a_kind_and_a_namespace_that_are_not_there_are_not_served(api: ApiServer) -> None:
    nothing = Kind("nowhere.dev", "v1", "things", "Thing")
    assert await api.get(nothing, PLACE, "x") is None
    with pytest.raises(NotServedError):
        await api.list(nothing, PLACE)
    with pytest.raises(NotServedError, match='namespaces "nowhere" not found'):
        await api.create(JOBS, "nowhere", job("x"))


async def test_a_list_longer_than_a_page_is_whole(api: ApiServer) -> None:
    names = {f"page-{n}" for n in range(PAGE + 20)}
    await asyncio.gather(*(api.create(CONFIGMAPS, PLACE, {"metadata": {"name": name}}) for name in names))
    found = [item["metadata"]["name"] for item in await api.list(CONFIGMAPS, PLACE)]
    assert sorted(set(found)) == sorted(found)
    assert names <= set(found)


async def test_a_status_is_written_over_the_version_that_was_read_only(api: ApiServer, project: Path) -> None:
    run = yaml.safe_load((project / "examples" / "lora-nano.yaml").read_text())
    run["metadata"] = {"name": "run"}
    await api.create(FINETUNES, PLACE, run)
    read = await api.get(FINETUNES, PLACE, "run")
    assert read is not None
    version = read["metadata"]["resourceVersion"]
    await api.write_status(PLACE, "run", resource_version=version, status={"phase": "Pending"})
    with pytest.raises(StaleError):
        await api.write_status(PLACE, "run", resource_version=version, status={"phase": "Failed"})
    now = await api.get(FINETUNES, PLACE, "run")
    assert now is not None
    assert now["status"]["phase"] == "Pending"
    version = now["metadata"]["resourceVersion"]
    wrong = await refusal(api.write_status(PLACE, "run", resource_version=version, status={"phase": 3}))
    assert (wrong.cause, wrong.code, wrong.final) == ("invalid", 422, True)


async def test_an_event_said_again_moves_its_time(api: ApiServer) -> None:
    said = {
        "metadata": {"name": "e", "namespace": PLACE},
        "involvedObject": {"kind": "Job", "namespace": PLACE, "name": "one"},
        "reason": "Said",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    await api.record(PLACE, said)
    await api.record(PLACE, {**said, "lastTimestamp": "2026-01-01T00:00:09Z"})
    found = await api.list(EVENTS, PLACE, fields={"reason": "Said"})
    assert [item["lastTimestamp"] for item in found] == ["2026-01-01T00:00:09Z"]


async def test_the_last_lines_of_a_log_come_through_the_api_server(api: ApiServer) -> None:
    async def log(name: str, since: int = 60, limit: int = 4096, container: str = "trainer") -> str | None:
        return await api.log(PLACE, name, container=container, since_seconds=since, limit_bytes=limit)

    await api.create(JOBS, PLACE, job("talks"))
    pods = await eventually(
        lambda: api.list(PODS, PLACE, labels={"job-name": "talks"}), lambda found: len(found) == 1
    )
    name = pods[0]["metadata"]["name"]
    assert await eventually(lambda: log(name), bool) in ("one\n", "one\ntwo\n")
    await eventually(lambda: log(name), lambda text: text == "one\ntwo\n")
    assert await log(name, limit=3) == "two"
    await eventually(lambda: log(name, since=1), lambda text: text == "")
    assert await log(name, container="nobody") is None
    assert await log("gone") is None


async def test_the_log_of_a_pod_whose_node_is_lost_is_none(api: ApiServer) -> None:
    await api.create(PODS, PLACE, pod("lost", nodeName="nowhere"))
    assert await api.log(PLACE, "lost", container="a", since_seconds=60, limit_bytes=64) is None


async def test_a_wrong_object_is_invalid(api: ApiServer) -> None:
    wrong = await refusal(api.create(JOBS, PLACE, job("wrong", image="")))
    assert (wrong.cause, wrong.code, wrong.reason) == ("invalid", 422, "Invalid")
    malformed = job("wrong")
    malformed["spec"]["parallelism"] = "two"
    assert (await refusal(api.create(JOBS, PLACE, malformed))).cause == "invalid"


async def test_a_used_up_quota_is_told_from_other_refusals(api: ApiServer) -> None:
    await api.create(NAMESPACES, None, {"metadata": {"name": "few"}})
    await api.create(QUOTAS, "few", {"metadata": {"name": "q"}, "spec": {"hard": {"count/jobs.batch": "0"}}})
    await told(lambda: api.create(JOBS, "few", job("x")), "quota", "quota: q")


async def test_limits_policies_priorities_and_security_are_admission(api: ApiServer) -> None:
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    await api.create(NAMESPACES, None, {"metadata": {"name": "strict", "labels": restricted}})
    await told(lambda: api.create(PODS, "strict", pod("x")), "admission", "violates PodSecurity")
    named = pod("x", priorityClassName="high")
    await told(lambda: api.create(PODS, PLACE, named), "admission", "no PriorityClass")
    await api.create(NAMESPACES, None, {"metadata": {"name": "small"}})
    most = {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}
    await api.create(LIMITS, "small", {"metadata": {"name": "most"}, "spec": most})
    greedy = pod("x")
    greedy["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "4"}}
    await told(lambda: api.create(PODS, "small", greedy), "admission", "maximum cpu usage")


_ASKS = {"requests": {"cpu": "1500m", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
_MISFITS = [
    (
        "quota",
        {"requests.cpu": "1"},
        "one pod asks for 1500m of requests.cpu, more than the 1 that quota most",
    ),
    ("quota", {"limits.memory": "1500Mi"}, "one pod asks for 2Gi of limits.memory, more than the 1500Mi"),
    ("quota", {"pods": "0"}, None),
    ("range", {"type": "Container", "max": {"cpu": "1"}}, ""),
    ("range", {"type": "Pod", "max": {"memory": "1Gi"}}, ""),
    ("range", {"type": "Container", "min": {"cpu": "4"}}, ""),
    ("range", {"type": "Container", "maxLimitRequestRatio": {"cpu": "1"}}, ""),
]
"""What a namespace allows, and what we make of the refusal of a pod; None: it is waited for."""


@pytest.mark.parametrize(("kind", "allowed", "message"), _MISFITS, ids=[str(row[1]) for row in _MISFITS])
async def test_what_a_namespace_never_allows_a_pod_is_told_from_what_is_used_up(
    api: ApiServer, kind: str, allowed: dict[str, Any], message: str | None
) -> None:
    place = f"misfit-{_MISFITS.index((kind, allowed, message))}"
    await api.create(NAMESPACES, None, {"metadata": {"name": place}})
    spec = {"hard": allowed} if kind == "quota" else {"limits": [allowed]}
    await api.create(
        QUOTAS if kind == "quota" else LIMITS, place, {"metadata": {"name": "most"}, "spec": spec}
    )
    child = f"j-{place}"

    tries = count()

    async def refused() -> RefusedError | None:
        asks = pod(f"try-{next(tries)}")
        asks["spec"]["containers"][0]["resources"] = _ASKS
        try:
            await api.create(PODS, place, asks)
        except RefusedError as error:
            return error
        return None

    await eventually(refused, lambda error: error is not None)
    await api.create(JOBS, place, job(child, resources=_ASKS))
    owner = await api.get(JOBS, place, child)
    assert owner is not None
    about = {"involvedObject.uid": owner["metadata"]["uid"], "type": "Warning"}
    events = await eventually(lambda: api.list(EVENTS, place, fields=about), bool)
    said = newest_warning(events, child)
    assert said is not None
    found = misfit(said.message, "check", 1)
    assert (found is None) == (message is None), said.message
    assert found is None or found.message.startswith(message or "")


@pytest.mark.parametrize(("reason", "code"), [("Invalid", 422), ("Forbidden", 403)])
async def test_a_policy_that_denies_is_admission_with_any_code(
    api: ApiServer, reason: str, code: int
) -> None:
    name = f"no-{code}"
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": f"object.metadata.name != '{name}'", "reason": reason}],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    await api.create(POLICIES, None, {"metadata": {"name": name}, "spec": policy})
    await api.create(BINDINGS, None, {"metadata": {"name": name}, "spec": binding})

    async def again() -> None:
        try:
            await api.create(JOBS, PLACE, job(name))
        except AlreadyExistsError:
            left = await api.get(JOBS, PLACE, name)
            if left is not None:
                await api.delete(JOBS, PLACE, name, uid=left["metadata"]["uid"])

    denied = await told(again, "admission", f"ValidatingAdmissionPolicy '{name}'")
    assert denied.code == code


async def test_a_webhook_that_does_not_answer_is_no_refusal(api: ApiServer) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    hook = {
        "name": "away.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
        "matchConditions": [{"name": "one", "expression": "object.metadata.name == 'hooked'"}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    await api.create(WEBHOOKS, None, {"metadata": {"name": "away"}, "webhooks": [hook]})
    hooked = {"metadata": {"name": "hooked"}}

    async def ask() -> UnavailableError | None:
        try:
            await api.create(CONFIGMAPS, PLACE, hooked)
        except UnavailableError as error:
            return error
        except AlreadyExistsError:
            left = await api.get(CONFIGMAPS, PLACE, "hooked")
            if left is not None:
                await api.delete(CONFIGMAPS, PLACE, "hooked", uid=left["metadata"]["uid"])
        return None

    error = await eventually(ask, lambda found: found is not None)
    assert error is not None
    assert error.words.startswith('Internal error occurred: failed calling webhook "away.example.com"')


async def test_a_namespace_that_ends_takes_nothing_more(api: ApiServer) -> None:
    await api.create(NAMESPACES, None, {"metadata": {"name": "ends"}})
    held = {"metadata": {"name": "held", "finalizers": ["example.com/held"]}}
    await api.create(CONFIGMAPS, "ends", held)
    place = await api.get(NAMESPACES, None, "ends")
    assert place is not None
    await api.delete(NAMESPACES, None, "ends", uid=place["metadata"]["uid"])
    late = {"metadata": {"generateName": "late-"}}
    await told(lambda: api.create(CONFIGMAPS, "ends", late), "admission", "because it is being terminated")


async def test_a_plugin_logs_in_and_what_its_user_may_not_do_is_forbidden(
    api: ApiServer, plane: cluster.Cluster, tmp_path: Path
) -> None:
    await api.create(ACCOUNTS, PLACE, {"metadata": {"name": "nobody"}})
    token = kubectl(plane, "-n", PLACE, "create", "token", "nobody").strip()
    config = with_plugin(plane.kubeconfig, tmp_path, token)
    async with calls(config) as nobody:
        error = await refusal(nobody.create(JOBS, PLACE, job("x")))
        assert (error.cause, error.code) == ("forbidden", 403)
        assert f'User "system:serviceaccount:{PLACE}:nobody" cannot create resource "jobs"' in error.words
        log = nobody.log(PLACE, "p", container="a", since_seconds=1, limit_bytes=64)
        assert (await refusal(log)).cause == "forbidden"
    async with calls(with_plugin(plane.kubeconfig, tmp_path, "wrong")) as stranger:
        with pytest.raises(UnavailableError, match="Unauthorized"):
            await stranger.list(PODS, PLACE)


def with_plugin(kubeconfig: Path, folder: Path, token: str) -> Path:
    """A kubeconfig whose user is whoever a script says."""
    version = "client.authentication.k8s.io/v1"
    said = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}}
    script = folder / "plugin"
    script.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    config = yaml.safe_load(kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"exec": {"apiVersion": version, "command": str(script), "interactiveMode": "Never"}}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
