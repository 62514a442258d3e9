"""The CustomResourceDefinition, made from the pydantic types: a structural schema with bounds, defaults and CEL rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from mochi_api import identity, rules
from mochi_api.base import BOUNDS_KEY
from mochi_api.spec import FineTuneSpec
from mochi_api.status import FineTuneStatus

Schema = dict[str, Any]
HEADER = "# Made by `make sync` from crds/mochi_api; do not edit.\n"
_DROPPED = ("title", "$defs", BOUNDS_KEY)
_REWRITTEN = ("const", "default", "properties", "items", "additionalProperties")

COLUMNS = (
    ("Mode", ".spec.mode", "string", 0),
    ("Phase", ".status.phase", "string", 0),
    ("Progress", ".status.training.progressPercentage", "integer", 0),
    ("Step", ".status.training.step", "integer", 1),
    ("Loss", ".status.training.loss", "string", 0),
    ("Attempt", ".status.training.attempt", "integer", 1),
    ("Age", ".metadata.creationTimestamp", "date", 0),
)


def structural(schema: Schema) -> Schema:
    """A JSON schema of pydantic as the structural schema Kubernetes wants.

    References are inlined, titles dropped, optional fields lose their null branch, and the bounds of decimal strings
    become CEL rules.
    """
    return _node(schema, schema.get("$defs", {}))


def _node(node: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        return _node({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    if "anyOf" in node:
        return _optional(node, definitions)
    if "oneOf" in node or "allOf" in node:
        raise ValueError(f"a structural schema cannot hold {sorted(node)}")
    kept = {key: value for key, value in node.items() if key not in (*_DROPPED, *_REWRITTEN)}
    return {**kept, **_own_keys(node), **_children(node, definitions)}


def _own_keys(node: Mapping[str, Any]) -> Schema:
    """What Kubernetes writes in another way than pydantic, for the node itself."""
    found: Schema = {}
    if "const" in node:
        found["enum"] = [node["const"]]
    if node.get("default") is not None:
        found["default"] = node["default"]
    if node.get("type") == "integer":
        found["format"] = "int64"
    if BOUNDS_KEY in node:
        found["x-kubernetes-validations"] = [_decimal_bound(*limit) for limit in node[BOUNDS_KEY]]
    return found


def _children(node: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    """The schemas below the node; `additionalProperties: false` is how every structural schema behaves anyway."""
    found: Schema = {}
    if "properties" in node:
        found["properties"] = {name: _node(child, definitions) for name, child in node["properties"].items()}
    if "items" in node:
        found["items"] = _node(node["items"], definitions)
    if isinstance(node.get("additionalProperties"), Mapping):
        found["additionalProperties"] = _node(node["additionalProperties"], definitions)
    return found


def _optional(node: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
    if len(branches) != 1:
        raise ValueError(f"a structural schema cannot hold a union of {len(branches)} types: {node}")
    outside = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
    return _node({**branches[0], **outside}, definitions)


def _decimal_bound(words: str, sign: str, bound: int) -> dict[str, str]:
    """The CEL form of one limit on the number that a decimal string spells."""
    return {
        "rule": f"double(self) {sign} {float(bound)}",
        "message": f"must be {words}",
        "messageExpression": f"'must be {words}, got ' + self",
    }


def _with_defaults(schema: Schema) -> Schema:
    """Give each optional object whose own fields all have defaults an empty default, so that the API server fills it."""
    properties = schema.get("properties")
    if properties is None:
        return schema
    required = set(schema.get("required", ()))
    filled = {}
    for name, child in properties.items():
        below = _with_defaults(child)
        if name not in required and child.get("type") == "object" and child.get("x-mochi-always"):
            below = {**below, "default": {}}
        filled[name] = {key: value for key, value in below.items() if key != "x-mochi-always"}
    return {**schema, "properties": filled}


def spec_schema() -> Schema:
    """Schema of the spec, with its rules."""
    schema = _with_defaults(structural(_marked(FineTuneSpec.model_json_schema(by_alias=True))))
    checks = [
        {"rule": rule.cel, "message": f"{rule.path} breaks a rule", "messageExpression": rule.message}
        for rule in rules.RULES
    ]
    frozen = [
        {
            "rule": f"self.{field} == oldSelf.{field}",
            "message": f"spec.{field} is immutable: create a new MochiFineTune (the embeddings are shared)",
        }
        for field in rules.IMMUTABLE
    ]
    return {**schema, "x-kubernetes-validations": [*checks, *frozen]}


def _marked(schema: Schema) -> Schema:
    """Mark the properties that pydantic fills with an empty object (`default_factory`): it leaves no default there."""
    for model in [schema, *schema.get("$defs", {}).values()]:
        required = set(model.get("required", ()))
        for name, child in model.get("properties", {}).items():
            if name not in required and "$ref" in child:
                child["x-mochi-always"] = True
    return schema


def status_schema() -> Schema:
    """Schema of the status; only what the operator always writes is required."""
    return structural(FineTuneStatus.model_json_schema(by_alias=True, mode="validation"))


def crd() -> Schema:
    """The whole CustomResourceDefinition."""
    names = {
        "kind": identity.KIND,
        "listKind": f"{identity.KIND}List",
        "plural": identity.PLURAL,
        "singular": identity.SINGULAR,
        "shortNames": [identity.SHORT_NAME],
        "categories": ["all", "ml"],
    }
    version = {
        "name": identity.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "jsonPath": path, "type": kind, "priority": priority}
            for name, path, kind, priority in COLUMNS
        ],
        "schema": {"openAPIV3Schema": _object_schema()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{identity.PLURAL}.{identity.GROUP}"},
        "spec": {"group": identity.GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }


def _object_schema() -> Schema:
    return {
        "type": "object",
        "description": "Fine-tunes the Mochi-1 video model on the user's clips.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec_schema(),
            "status": status_schema(),
        },
        "x-kubernetes-validations": [
            {
                "rule": f"size(self.metadata.name) <= {rules.NAME_LIMIT}",
                "message": f"metadata.name must have at most {rules.NAME_LIMIT} characters",
                "messageExpression": (
                    f"'metadata.name must have at most {rules.NAME_LIMIT} characters (names of child objects derive "
                    "from it), got %d'.format([size(self.metadata.name)])"
                ),
            },
            {
                "rule": f"self.metadata.name.matches('{rules.NAME_PATTERN}')",
                "message": "metadata.name must be a DNS label that starts with a letter",
                "messageExpression": (
                    "'metadata.name must start with a letter and hold only lower-case letters, digits and hyphens "
                    "(names of child Services derive from it), got %s'.format([self.metadata.name])"
                ),
            },
        ],
    }


def crd_yaml() -> str:
    """The CustomResourceDefinition as a document."""
    return HEADER + yaml.safe_dump(crd(), sort_keys=False, allow_unicode=True, width=120)
