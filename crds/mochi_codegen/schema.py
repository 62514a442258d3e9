"""The CustomResourceDefinition, made from the pydantic types: a structural schema with bounds, defaults and CEL rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from mochi_api import identity, rules
from mochi_api.base import BOUNDS_KEY, DECIMAL, PATTERN_KEY, UNSTORED_KEY, Pattern, cel_text
from mochi_api.spec import FineTuneSpec
from mochi_api.status import FineTuneStatus

Schema = dict[str, Any]
HEADER = "# Made by `make sync` from crds/mochi_api; do not edit.\n"
_DROPPED = ("title", "$defs", BOUNDS_KEY, PATTERN_KEY)
_REWRITTEN = ("const", "default", "properties", "items", "additionalProperties", "propertyNames")

COLUMNS = (
    ("Mode", ".spec.mode", "string", 0),
    ("Phase", ".status.phase", "string", 0),
    ("Progress", ".status.training.progressPercentage", "integer", 0),
    ("Step", ".status.training.step", "integer", 1),
    ("Loss", ".status.training.loss", "string", 0),
    ("Attempt", ".status.training.attempt", "integer", 1),
    ("Message", ".status.message", "string", 1),
    ("Age", ".metadata.creationTimestamp", "date", 0),
)


def structural(schema: Schema) -> Schema:
    """A JSON schema of pydantic as the structural schema Kubernetes wants.

    References are inlined, titles dropped, optional fields lose their null branch. Patterns, the bounds of decimal
    strings and the limits of a map's keys become CEL rules: their messages are words, not regular expressions.
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
    dropped = {*_DROPPED, *_REWRITTEN, *(("pattern",) if PATTERN_KEY in node else ())}
    kept = {key: value for key, value in node.items() if key not in dropped}
    return {**kept, **_own_keys(node), **_said(node), **_children(node, definitions)}


def _own_keys(node: Mapping[str, Any]) -> Schema:
    """What Kubernetes writes in another way than pydantic, for the node itself."""
    found: Schema = {}
    if "const" in node:
        found["enum"] = [node["const"]]
    if node.get("default") is not None:
        found["default"] = node["default"]
    if node.get("type") == "integer":
        found["format"] = "int64"
    return found


def _said(node: Mapping[str, Any]) -> Schema:
    """The limits that CEL rules carry, and what they add to the description."""
    found: Schema = {}
    validations = []
    if PATTERN_KEY in node:
        pattern = Pattern(**node[PATTERN_KEY])
        validations.append(_shape(pattern))
        if pattern.note and "description" in node:
            found["description"] = f"{node['description']} {pattern.note}"
    validations += [_decimal_bound(*limit) for limit in node.get(BOUNDS_KEY, ())]
    if "propertyNames" in node:
        validations += _keys(node["propertyNames"])
    return {**found, "x-kubernetes-validations": validations} if validations else found


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


def _shape(pattern: Pattern) -> dict[str, str]:
    """The CEL form of what a text looks like."""
    return {
        "rule": pattern.cel("self"),
        "message": pattern.words,
        "messageExpression": f"{cel_text(f'{pattern.words}, got ')} + self",
    }


def _decimal_bound(words: str, sign: str, bound: int) -> dict[str, str]:
    """The CEL form of one limit on the number that a decimal string spells; of what is no number another rule speaks."""
    return {
        "rule": f"!{DECIMAL.cel('self')} || double(self) {sign} {float(bound)}",
        "message": f"must be {words}",
        "messageExpression": f"'must be {words}, got ' + self",
    }


def _keys(limits: Mapping[str, Any]) -> list[dict[str, str]]:
    """The CEL form of the length and the shape of a map's keys, for which a structural schema has no keyword."""
    least, most = limits["minLength"], limits["maxLength"]
    length = {
        "rule": f"self.all(key, size(key) >= {least} && size(key) <= {most})",
        "message": f"must have keys of {least} to {most} characters",
    }
    if PATTERN_KEY not in limits:
        return [length]
    pattern = Pattern(**limits[PATTERN_KEY])
    others = f"self.filter(key, !{pattern.cel('key')})"
    shape = {
        "rule": f"self.all(key, {pattern.cel('key')})",
        "message": f"each key {pattern.words}",
        "messageExpression": f"{cel_text(f'each key {pattern.words}, got ')} + {others}[0]",
    }
    return [length, shape]


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
    return _judged_once({**schema, "x-kubernetes-validations": checks}, frozenset(rules.IMMUTABLE))


def _judged_once(schema: Schema, fields: frozenset[str] | None = None) -> Schema:
    """The schema, with rules on what cannot change that are judged when an object is made and never again.

    An object of before may break a rule that came later, or have a value of another type where a rule looks, which is
    an error of the rule that the API server never overlooks: no status could be written into such an object. Of the
    `fields` that are named only these are taken; lists have no items of before.
    """
    kept = dict(schema)
    if "properties" in kept:
        kept["properties"] = {
            name: _judged_once(child) if fields is None or name in fields else child
            for name, child in kept["properties"].items()
        }
    if "x-kubernetes-validations" in kept:
        kept["x-kubernetes-validations"] = [
            {**rule, "rule": f"oldSelf.hasValue() || ({rule['rule']})", "optionalOldSelf": True}
            for rule in kept["x-kubernetes-validations"]
        ]
    return kept


_STATUS_WRITE = "has(self.status) != has(oldSelf.status) || has(self.status) && self.status != oldSelf.status"
"""CEL: a write of the status, which leaves the spec as it is; a write of the spec leaves the status."""
_UNREADABLE = (
    "has(oldSelf.status) && has(oldSelf.status.conditions) && oldSelf.status.conditions.exists(each, "
    "each.type == 'Reconciling' && each.reason == 'InvalidSpec')"
)
"""CEL: the operator has said that it cannot work with the spec, which may then be mended."""


def _frozen() -> list[Schema]:
    """Rules of the object: what cannot change once a run is made, but for a spec that the operator has refused.

    A spec is compared in a write of the spec only: one that cannot be read would be an error of the rule, in others too.
    """
    schema = structural(FineTuneSpec.model_json_schema(by_alias=True))
    return [
        {
            "rule": f"{_STATUS_WRITE} || {_UNREADABLE} || "
            f"{_held(schema, 'self.spec', field)} == {_held(schema, 'oldSelf.spec', field)}",
            "fieldPath": f".spec.{field}",
            "message": f"spec.{field} is immutable: create a new MochiFineTune (the embeddings are shared)",
        }
        for field in rules.IMMUTABLE
    ]


def _held(schema: Schema, whose: str, field: str) -> str:
    """CEL: a field of the spec, or its default where the API server does not fill that in."""
    child, place = schema["properties"][field], f"{whose}.{field}"
    if not child.get(UNSTORED_KEY):
        return place
    return f"(has({place}) ? {place} : {cel_text(child['default'])})"


def _marked(schema: Schema) -> Schema:
    """Mark the properties that pydantic fills with an empty object (`default_factory`): it leaves no default there."""
    for model in [schema, *schema.get("$defs", {}).values()]:
        required = set(model.get("required", ()))
        for name, child in model.get("properties", {}).items():
            if name not in required and "$ref" in child:
                child["x-mochi-always"] = True
    return schema


def _as_served(node: Schema, *, fills_in: bool) -> Schema:
    """The schema for an API server, which fills in the defaults of the first version's fields and no others.

    In the status it fills in nothing: the operator writes what there is to say, and one of another version would read
    what it does not know.
    """
    kept = dict(node)
    if kept.pop(UNSTORED_KEY, False) or not fills_in:
        kept.pop("default", None)
    if "properties" in kept:
        kept["properties"] = {
            name: _as_served(child, fills_in=fills_in) for name, child in kept["properties"].items()
        }
    for below in ("items", "additionalProperties"):
        if below in kept:
            kept[below] = _as_served(kept[below], fills_in=fills_in)
    return kept


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
            "spec": _as_served(spec_schema(), fills_in=True),
            "status": _as_served(status_schema(), fills_in=False),
        },
        "x-kubernetes-validations": [
            *(
                {"rule": rule, "message": message, "messageExpression": expression}
                for rule, message, expression in rules.NAME_RULES
            ),
            *_frozen(),
        ],
    }


def crd_yaml() -> str:
    """The CustomResourceDefinition as a document."""
    return HEADER + yaml.safe_dump(crd(), sort_keys=False, allow_unicode=True, width=120)
