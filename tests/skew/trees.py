"""Comparing documents of two versions, and what an API server does to one by the schema of its CRD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]


def known(document: Any, shape: Any) -> Any:
    """`document` without the fields that `shape`, the same as another version sees it, does not have."""
    if isinstance(document, Mapping) and isinstance(shape, Mapping):
        return {key: known(value, shape[key]) for key, value in document.items() if key in shape}
    return document


def places(document: Any, above: str = "") -> set[str]:
    """The paths of all fields."""
    if not isinstance(document, Mapping):
        return {above}
    return {above}.union(*(places(value, f"{above}.{key}") for key, value in document.items()))


def crd_schema(root: Path) -> Document:
    """The schema of a MochiFineTune as this checkout's CRD has it."""
    crd = yaml.safe_load((root / "crds" / "mochifinetunes.yaml").read_text(encoding="utf-8"))
    schema: Document = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def pruned(value: Any, schema: Mapping[str, Any]) -> Any:
    """What an API server keeps of `value`: the fields that the schema has."""
    if isinstance(value, list):
        return [pruned(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    fields = schema["properties"]
    return {key: pruned(part, fields[key]) for key, part in value.items() if key in fields}


def filled_in(schema: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Fields that an API server adds by `schema` to objects of a version whose schema, `other`, does not have them."""
    if "items" in schema and "items" in other:
        yield from filled_in(schema["items"], other["items"], f"{above}[]")
    for name, child in schema.get("properties", {}).items():
        same = other.get("properties", {}).get(name)
        if same is not None:
            yield from filled_in(child, same, f"{above}.{name}")
        elif "default" in child:
            yield f"{above}.{name}"


def default_values(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The default of each field of a JSON schema made by pydantic, by `Type.field`."""
    types = {"Spec": schema, **schema.get("$defs", {})}
    return {
        f"{kind}.{name}": field["default"]
        for kind, body in types.items()
        for name, field in body.get("properties", {}).items()
        if "default" in field
    }
