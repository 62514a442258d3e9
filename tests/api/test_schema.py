"""The CRD that is made from the types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from mochi_api import clips, rules
from mochi_codegen import generated, reference, schema
from tests.api.wrong_specs import spec


def _nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from _nodes(node[key], f"{path}[]")


def _all() -> list[tuple[str, dict[str, Any]]]:
    root = schema.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return [*_nodes(root["spec"], "spec"), *_nodes(root["status"], "status")]


def test_every_node_has_a_type_and_nothing_a_structural_schema_forbids() -> None:
    forbidden = {"$ref", "anyOf", "oneOf", "allOf", "title", "const", "propertyNames"}
    assert [path for path, node in _all() if "type" not in node or forbidden & set(node)] == []


def test_every_string_list_and_map_is_bounded() -> None:
    unbounded = []
    for path, node in _all():
        bounded = {"string": {"maxLength", "enum"}, "array": {"maxItems"}, "integer": {"format"}}.get(
            node["type"]
        )
        if bounded and not bounded & set(node):
            unbounded.append(path)
        if "additionalProperties" in node and "maxProperties" not in node:
            unbounded.append(path)
    assert unbounded == []


def test_every_field_says_what_it_is() -> None:
    silent = [path for path, node in _all() if "description" not in node and not path.endswith("[]")]
    assert silent == []


def test_defaults_are_filled_down_to_the_leaves() -> None:
    tree = schema.spec_schema()

    def filled(node: dict[str, Any], value: Any) -> Any:
        if "properties" not in node:
            return value
        value = dict(value)
        for name, child in node["properties"].items():
            if name not in value and "default" in child:
                value[name] = child["default"]
            if name in value:
                value[name] = filled(child, value[name])
        return value

    document = filled(tree, spec())
    assert document["preprocessing"]["frames"] == 37
    assert document["training"]["checkpoint"] == {"everySteps": 200, "keepLast": 3}
    assert document["workers"]["gpuProducts"] == ["NVIDIA-H100-80GB-HBM3"]
    assert "lora" not in document["training"]


def test_the_api_server_fills_nothing_into_a_status() -> None:
    assert [path for path, node in _all() if path.startswith("status") and "default" in node] == []


def test_the_default_of_a_later_field_is_on_the_page_and_not_in_the_crd() -> None:
    served = dict(_all())["spec.runPolicy.retryOn"]
    assert "default" not in served
    assert not [key for key in served if key.startswith("x-mochi")]
    row = next(line for line in reference.finetune_page().splitlines() if "`spec.runPolicy.retryOn`" in line)
    assert "'StorageError'" in row


def test_rules_judge_no_object_of_before_but_where_it_may_change() -> None:
    served = schema.spec_schema()
    judged = [*served["x-kubernetes-validations"], *_rules(served["properties"]["workers"])]
    assert len(judged) > len(rules.RULES)
    assert all(
        rule["optionalOldSelf"] and rule["rule"].startswith("oldSelf.hasValue() || (") for rule in judged
    )
    assert not [rule for rule in _rules(served["properties"]["runPolicy"]) if "oldSelf" in rule["rule"]]
    assert {rule.path.split(".")[1] for rule in rules.RULES} <= set(rules.IMMUTABLE)


def _rules(node: dict[str, Any]) -> list[dict[str, Any]]:
    """All rules of a schema but those of items of lists."""
    below = [rule for child in node.get("properties", {}).values() for rule in _rules(child)]
    return [*node.get("x-kubernetes-validations", ()), *below]


def test_the_page_of_clips_has_each_reason_with_its_cure_and_each_warning() -> None:
    lines = reference.clips_page().splitlines()
    for row in clips.CLIP_TABLE:
        assert f"| `{row.reason}` | {row.meaning} | {row.cure} |" in lines
    assert [row.reason for row in clips.CLIP_TABLE] == list(clips.ClipReason)
    for warning in clips.ClipWarning:
        assert f"| `{warning}` | {clips.WARNING_MEANINGS[warning]} |" in lines


def test_generated_files_agree_with_the_types(project: Any) -> None:
    for path, text in generated.files().items():
        assert (project / path).read_text(encoding="utf-8") == text, f"{path}: run `make sync`"


def test_the_crd_reads_back_as_what_was_written() -> None:
    assert yaml.safe_load(schema.crd_yaml()) == schema.crd()
