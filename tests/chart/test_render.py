"""What the chart renders: golden snapshots, and the laws every rendering keeps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from mochi_operator import settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CRD = "helm/mochi-operator/files/mochifinetunes.yaml"
CASES = ("defaults", "everything", "brought-along")
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = of_kind(documents, kind)
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_rendering_is_the_golden_one(render, case: str) -> None:
    """The CRD is left out: it is generated, and compared with its source below. `make golden` rewrites the files."""
    documents = [document for document in render(case) if document["kind"] != "CustomResourceDefinition"]
    golden = HERE / "golden" / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(yaml.safe_dump_all(documents, sort_keys=False, width=120), encoding="utf-8")
    assert documents == list(yaml.safe_load_all(golden.read_text(encoding="utf-8")))


def test_lint_finds_nothing(helm) -> None:
    for case in CASES:
        done = helm(
            "lint",
            ".",
            "--strict",
            "--kube-version",
            "1.34.0",
            "--values",
            str(HERE / "values" / f"{case}.yaml"),
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", ["defaults", "everything"])
def test_the_rendered_crd_is_the_generated_one(render, case: str) -> None:
    source = yaml.safe_load((ROOT / CRD).read_text(encoding="utf-8"))
    rendered = one(render(case), "CustomResourceDefinition")
    assert rendered["spec"] == source["spec"]
    assert rendered["metadata"]["name"] == source["metadata"]["name"]


def test_the_crd_survives_an_uninstall_unless_told_otherwise(render) -> None:
    keep = {"helm.sh/resource-policy": "keep"}
    assert (
        one(render("defaults"), "CustomResourceDefinition")["metadata"]["annotations"].items() >= keep.items()
    )
    assert "annotations" not in one(render("everything"), "CustomResourceDefinition")["metadata"]
    assert of_kind(render("brought-along"), "CustomResourceDefinition") == []


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_named_once_labelled_and_in_a_namespace_of_the_release(render, case: str) -> None:
    documents = render(case)
    places = {
        "mochi-system",
        *yaml.safe_load((HERE / "values" / f"{case}.yaml").read_text()).get("watchNamespaces", []),
    }
    identities = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in documents]
    assert len(set(identities)) == len(identities)
    for document in documents:
        metadata = document["metadata"]
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "mochi-operator", metadata["name"]
        assert ("namespace" in metadata) == (document["kind"] not in CLUSTER_WIDE), metadata["name"]
        assert metadata.get("namespace", "mochi-system") in places


@pytest.mark.parametrize("case", CASES)
def test_selectors_find_the_operators_pod(render, case: str) -> None:
    documents = render(case)
    deployment, service = one(documents, "Deployment"), one(documents, "Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert labels >= deployment["spec"]["selector"]["matchLabels"].items()
    assert labels >= service["spec"]["selector"].items()
    for monitor in of_kind(documents, "ServiceMonitor"):
        assert service["metadata"]["labels"].items() >= monitor["spec"]["selector"]["matchLabels"].items()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}


def test_the_operator_reads_the_environment_the_chart_gives_it(render) -> None:
    """Values of the case `everything`, through the Deployment, into the operator's own settings."""
    (container,) = one(render("everything"), "Deployment")["spec"]["template"]["spec"]["containers"]
    environment = {
        entry["name"]: entry.get("value")
        or {"status.podIP": "127.1.2.3", "metadata.namespace": "mochi-system"}[
            entry["valueFrom"]["fieldRef"]["fieldPath"]
        ]
        for entry in container["env"]
    }
    assert len(environment) == len(container["env"]), "a name is given twice"
    read = settings.from_environment(environment)
    digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    assert read.trainer_image == f"registry.example.com:5000/video/mochi-trainer@{digest}"
    assert read.watch_namespaces == ("team-a", "team-b")
    assert (read.progress_seconds, read.bind_address) == (5, "127.1.2.3")
    assert read.http_port == container["ports"][0]["containerPort"]


def test_the_default_environment_means_all_namespaces(render) -> None:
    (container,) = one(render("defaults"), "Deployment")["spec"]["template"]["spec"]["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    assert settings.from_environment(values).watch_namespaces == ()


def test_every_image_of_the_chart_is_named_by_its_values(render) -> None:
    images = {
        case: one(render(case), "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
        for case in CASES
    }
    assert images == {
        "defaults": "mochi-operator:0.1.0",
        "everything": "registry.example.com/video/mochi-operator:0.1.0-rc.1",
        "brought-along": "mochi-operator:0.1.0",
    }
    assert one(render("everything"), "Pod")["spec"]["containers"][0]["image"] == images["everything"]


def test_an_old_cluster_is_refused(helm) -> None:
    done = helm("template", "mochi", ".", "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert "requires kubeVersion: >=1.30.0-0" in done.stderr
