"""What the chart's pods may do to a node, and what its accounts may do to the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

CASES = ("defaults", "everything", "brought-along")
ALLOWED = {
    ("mochi.finetune.dev", "mochifinetunes"): {"get", "list", "watch"},
    ("mochi.finetune.dev", "mochifinetunes/status"): {"patch"},
    ("batch", "jobs"): {"create", "get", "list", "watch", "delete"},
    ("kubeflow.org", "pytorchjobs"): {"create", "get", "list", "watch", "delete"},
    ("", "configmaps"): {"create", "get", "delete"},
    ("", "pods"): {"list", "watch"},
    ("", "pods/log"): {"get"},
    ("", "events"): {"create", "list", "patch"},
}
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def pods(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every pod spec of a rendering."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document["spec"]
        elif "template" in document.get("spec", {}):
            yield document["spec"]["template"]["spec"]


def violations(pod: dict[str, Any]) -> list[str]:
    """What the Pod Security level `restricted` forbids in a pod, and besides: a writable root, root as user."""
    security = pod.get("securityContext", {})
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    found += [] if security.get("runAsNonRoot") else ["runAsNonRoot"]
    found += ["runAsUser"] if security.get("runAsUser") == 0 else []
    found += [] if security.get("seccompProfile") == {"type": "RuntimeDefault"} else ["seccompProfile"]
    found += [
        f"volume {kind}" for v in pod.get("volumes", []) for kind in v.keys() - {"name"} - RESTRICTED_VOLUMES
    ]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container.get("securityContext", {})
        found += [] if own.get("allowPrivilegeEscalation") is False else ["allowPrivilegeEscalation"]
        found += [] if own.get("readOnlyRootFilesystem") else ["readOnlyRootFilesystem"]
        found += [] if own.get("capabilities") == {"drop": ["ALL"]} else ["capabilities"]
        found += ["privileged"] if own.get("privileged") else []
        found += [f"hostPort {p['hostPort']}" for p in container.get("ports", []) if "hostPort" in p]
    return found


def users(pod: dict[str, Any]) -> dict[str, int]:
    """Every user and group that a pod or a container of it names."""
    contexts = [part.get("securityContext", {}) for part in (pod, *pod["containers"])]
    names = ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups")
    return {name: context[name] for context in contexts for name in names if name in context}


def granted(role: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    """(API group, resource) -> verbs."""
    verbs: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                verbs.setdefault((group, resource), set()).update(rule["verbs"])
    return verbs


@pytest.mark.parametrize("case", CASES)
def test_every_pod_obeys_the_restricted_level(render, case: str) -> None:
    found = list(pods(render(case)))
    assert len(found) == 2, "the operator's pod and the pod of `helm test`"
    assert [violations(pod) for pod in found] == [[], []]


def test_the_check_of_pods_sees_a_pod_without_any_setting() -> None:
    bare = {
        "containers": [{"name": "x", "ports": [{"hostPort": 80}]}],
        "volumes": [{"name": "x", "hostPath": {}}],
        "securityContext": {"runAsUser": 0},
    }
    assert violations(bare) == [
        "runAsNonRoot", "runAsUser", "seccompProfile", "volume hostPath",
        "allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities", "hostPort 80",
    ]  # fmt: skip


def test_pods_run_as_the_images_user(render) -> None:
    assert [users(pod) for pod in pods(render("defaults"))] == [{"runAsUser": 10001, "runAsGroup": 10001}] * 2


def test_on_openshift_the_namespace_says_whom_pods_run_as(render) -> None:
    assert [users(pod) for pod in pods(render("everything"))] == [{}, {}]


def test_only_the_operators_pod_gets_a_token(render) -> None:
    assert [pod["automountServiceAccountToken"] for pod in pods(render("defaults"))] == [True, False]


def test_the_operator_may_do_what_it_does_and_nothing_else(render) -> None:
    """In all namespaces by default, and only in the listed ones otherwise."""
    named = {
        (d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d for d in render("defaults")
    }
    assert granted(named["ClusterRole", None, "mochi-system:mochi-mochi-operator"]) == ALLOWED

    roles = [d for d in render("everything") if d["kind"] == "Role"]
    assert [(d["metadata"]["namespace"], granted(d)) for d in roles] == [
        ("team-a", ALLOWED),
        ("team-b", ALLOWED),
    ]
    assert [d for d in render("everything") if d["kind"] == "ClusterRoleBinding"] == []


@pytest.mark.parametrize("case", ["defaults", "everything"])
def test_every_binding_joins_a_role_and_an_account_of_the_release(render, case: str) -> None:
    documents = render(case)
    names = {(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in documents}
    bindings = [d for d in documents if d["kind"].endswith("Binding")]
    assert bindings
    for binding in bindings:
        assert (
            binding["roleRef"]["kind"],
            binding["metadata"].get("namespace"),
            binding["roleRef"]["name"],
        ) in names
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["namespace"], subject["name"]) in names
        (deployment,) = [d for d in documents if d["kind"] == "Deployment"]
        assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == subject["name"]


@pytest.mark.parametrize("case", CASES)
def test_no_role_has_a_wildcard_secrets_or_a_way_into_a_pod(render, case: str) -> None:
    for role in render(case):
        if role["kind"] not in ("Role", "ClusterRole"):
            continue
        for (group, resource), verbs in granted(role).items():
            assert "*" not in {group, resource, *verbs}, role["metadata"]["name"]
            assert resource not in {"secrets", "pods/exec", "pods/portforward", "serviceaccounts/token"}
            assert not verbs & {"impersonate", "escalate", "bind"}


def test_users_of_the_built_in_roles_may_use_finetunes_but_not_write_their_status(render) -> None:
    roles = {
        d["metadata"]["name"].rsplit("-", 1)[1]: d for d in render("defaults") if d["kind"] == "ClusterRole"
    }
    edit, view = roles["edit"], roles["view"]
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert granted(view)["mochi.finetune.dev", "mochifinetunes/status"] == {"get", "list", "watch"}
    assert granted(edit).keys() == {("mochi.finetune.dev", "mochifinetunes")}


def test_without_rbac_and_account_the_chart_brings_neither(render) -> None:
    documents = render("brought-along")
    assert {d["kind"] for d in documents} == {"Deployment", "Service", "Pod"}
    (deployment,) = [d for d in documents if d["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "prepared"
