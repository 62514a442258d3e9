"""The chart's values: defaults, comments, and what the schema refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mochi_codegen import values

CHART = Path(__file__).parents[2] / "helm" / "mochi-operator"
TEXT = (CHART / "values.yaml").read_text(encoding="utf-8")


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every part of a schema that describes an object with known properties."""
    if isinstance(schema, list):
        return [found for item in schema for found in objects(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" else []
    return own + [found for item in schema.values() for found in objects(item)]


def test_values_yaml_holds_every_value_with_the_default_of_its_type() -> None:
    typed = values.ChartValues().to_wire()
    del typed["global"]
    assert yaml.safe_load(TEXT) == typed


def test_every_value_has_a_comment_above_it() -> None:
    lines = TEXT.splitlines()
    inside = re.compile(r"^    (cpu|memory): ")
    bare = [
        line for above, line in zip(["", *lines], lines, strict=False)
        if re.match(r"^ *[a-zA-Z]+:", line) and not inside.match(line) and not above.lstrip().startswith("#")
    ]  # fmt: skip
    assert bare == []


def test_the_schema_is_the_generated_one_and_closed_everywhere() -> None:
    text = (CHART / "values.schema.json").read_text(encoding="utf-8")
    assert text == values.schema_json()
    found = objects(yaml.safe_load(text))
    assert len(found) >= 10
    assert [part for part in found if part.get("additionalProperties") is not False] == []


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("replicas=2", "additional properties 'replicas' not allowed"),
        (
            "image.repository=https://registry.example/mochi",
            "at '/image/repository': 'https://registry.example/mochi' does not match",
        ),
        (
            "trainerImage.repository=registry.example/mochi:1.0",
            "at '/trainerImage/repository': 'registry.example/mochi:1.0' does not match",
        ),
        ("resources.limits.memory=lots", "at '/resources/limits/memory': 'lots' does not match pattern"),
        ("resources.limits.mem=1Gi", "additional properties 'mem' not allowed"),
        ("serviceAccount.name=Mochi_Operator", "at '/serviceAccount/name': 'Mochi_Operator' does not match"),
        ("priorityClassName=High", "at '/priorityClassName': 'High' does not match pattern"),
        ("image.repo=x", "additional properties 'repo' not allowed"),
        ("progressSeconds=fast", "at '/progressSeconds': got string, want integer"),
        ("progressSeconds=0", "at '/progressSeconds': minimum: got 0, want 1"),
        ("watchNamespaces=team-a", "at '/watchNamespaces': got string, want array"),
        ("watchNamespaces={Team_A}", "at '/watchNamespaces/0': 'Team_A' does not match pattern"),
        ("watchNamespaces={a,a}", "at '/watchNamespaces': items at 0 and 1 are equal"),
        ("crds.enabled=maybe", "at '/crds/enabled': got string, want boolean"),
        (
            "image.pullPolicy=Sometimes",
            "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        ),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        ("image.repository=", "at '/image/repository'"),
        ("tolerations[0].effekt=NoSchedule", "additional properties 'effekt' not allowed"),
        (
            "monitoring.runbookBaseURL=runbooks",
            "at '/monitoring/runbookBaseURL': 'runbooks' does not match pattern",
        ),
        ("fullnameOverride=Not_A_Name", "at '/fullnameOverride': 'Not_A_Name' does not match pattern"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(helm, setting: str, complaint: str) -> None:
    done = helm("template", "mochi", ".", "--kube-version", "1.34.0", "--set", setting)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_the_chart_can_be_a_dependency_of_another(helm) -> None:
    done = helm("template", "mochi", ".", "--kube-version", "1.34.0", "--set", "global.region=eu")
    assert done.returncode == 0, done.stderr
