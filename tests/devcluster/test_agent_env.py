"""The environment of a container, as Kubernetes composes it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from devcluster.agent import quantity
from devcluster.agent.env import ConfigError, Context, container_env, expand, field_value, format_map

POD = {
    "metadata": {
        "name": "p",
        "namespace": "n",
        "uid": "u",
        "labels": {"training.kubeflow.org/replica-index": "3"},
        "annotations": {"a/b": "c"},
    },
    "spec": {"nodeName": "node", "serviceAccountName": "sa"},
}
CONFIG_MAPS = {"cm": {"k": "v", "other": "w"}}
SECRETS = {"s": {"password": "hunter2"}}


def context() -> Context:
    return Context(
        pod=POD,
        pod_ip="127.0.0.10",
        host_ip="127.0.0.3",
        allocatable={"cpu": "4", "memory": "8Gi"},
        config_map=CONFIG_MAPS.get,
        secret=SECRETS.get,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-2"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $", "$A ${A} $"),
        ("cost: 5$", "cost: 5$"),
    ],
)
def test_references_expand_as_in_kubernetes(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "n"),
        ("metadata.uid", "u"),
        ("metadata.labels['training.kubeflow.org/replica-index']", "3"),
        ("metadata.annotations['a/b']", "c"),
        ("metadata.labels['absent']", ""),
        ("status.podIP", "127.0.0.10"),
        ("status.hostIP", "127.0.0.3"),
        ("spec.nodeName", "node"),
        ("spec.serviceAccountName", "sa"),
    ],
)
def test_field_references_resolve(path: str, expected: str) -> None:
    assert field_value(path, context()) == expected


def test_an_unknown_field_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"unsupported fieldPath: spec\.hostname"):
        field_value("spec.hostname", context())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"configMapKeyRef": {"name": "cm", "key": "k"}}, "v"),
        ({"secretKeyRef": {"name": "s", "key": "password"}}, "hunter2"),
        ({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}, "1536"),
        ({"resourceFieldRef": {"resource": "requests.cpu"}}, "1"),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, "4"),
        ({"secretKeyRef": {"name": "absent", "key": "k", "optional": True}}, None),
        ({"configMapKeyRef": {"name": "cm", "key": "absent", "optional": True}}, None),
    ],
)
def test_values_come_from_where_the_spec_says(source: dict, expected: str | None) -> None:
    container = {
        "env": [{"name": "X", "valueFrom": source}],
        "resources": {"limits": {"memory": "1.5Gi"}, "requests": {"cpu": "100m"}},
    }
    assert container_env(container, context(), {}).get("X") == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"configMapKeyRef": {"name": "gone", "key": "k"}}, 'configmap "gone" not found'),
        ({"secretKeyRef": {"name": "gone", "key": "k"}}, 'secret "gone" not found'),
        ({"configMapKeyRef": {"name": "cm", "key": "x"}}, "couldn't find key x in ConfigMap n/cm"),
        ({"secretKeyRef": {"name": "s", "key": "x"}}, "couldn't find key x in Secret n/s"),
    ],
)
def test_what_is_missing_is_named_in_the_kubelets_words(source: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        container_env({"env": [{"name": "X", "valueFrom": source}]}, context(), {})
    assert str(caught.value) == message


def test_later_values_win_and_see_earlier_ones() -> None:
    container = {
        "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)$(CM_k)$(C)"},
            {"name": "C", "value": "late"},
            {"name": "A", "value": "2"},
            {"name": "KUBERNETES_SERVICE_PORT", "value": "1234"},
        ],
    }
    service = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert container_env(container, context(), service) == {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "1234",
        "CM_k": "v",
        "CM_other": "w",
        "A": "2",
        "B": "1v$(C)",
        "C": "late",
    }


def test_maps_are_written_sorted_and_quoted() -> None:
    assert format_map({"b": 'say "hi"\n', "a": "1"}) == 'a="1"\nb="say \\"hi\\"\\n"'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)),
        ("4Gi", 4 * 2**30),
        ("1.5k", 1500),
        ("1e3", 1000),
        ("12E", 12 * 10**18),
        ("0", 0),
    ],
)
def test_quantities_parse_exactly(text: str, value: Fraction) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize("text", ["", "4 Gi", "GiB", "1Gb", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        quantity.parse(text)
