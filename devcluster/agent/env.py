"""A container's environment as the kubelet composes it; reads of the cluster come in as functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from devcluster.agent import quantity

Manifest = Mapping[str, Any]
_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


class ConfigError(Exception):
    """The container can not be configured now (CreateContainerConfigError); the message is the kubelet's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a container's environment may refer to besides its own spec."""

    pod: Manifest
    pod_ip: str
    host_ip: str
    allocatable: Mapping[str, str]
    """Quantities of the node: the default of limits that are not set."""
    config_map: Callable[[str], Mapping[str, str] | None]
    """Data of a ConfigMap of the pod's namespace; None when it does not exist."""
    secret: Callable[[str], Mapping[str, str] | None]
    """Data of a Secret of the pod's namespace as text."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; `$$` stands for one `$`; unknown names stay as they are."""

    def replacement(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return variables.get(match.group(2), match.group(0))

    return _REFERENCE.sub(replacement, text)


def container_env(container: Manifest, context: Context, service: Mapping[str, str]) -> dict[str, str]:
    """The variables of `container`; `service` holds those of the API server, which the container may override."""
    result: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        result.update(_bulk(source, context))
    for item in container.get("env", ()):
        value = _value(item, context, container, {**service, **result})
        if value is not None:
            result[item["name"]] = value
    return {**service, **result}


def _bulk(source: Manifest, context: Context) -> Iterator[tuple[str, str]]:
    kind, read = ("ConfigMap", context.config_map) if "configMapRef" in source else ("Secret", context.secret)
    reference = source.get("configMapRef") or source.get("secretRef") or {}
    data = read(reference.get("name", ""))
    if data is None and not reference.get("optional"):
        raise ConfigError(f'{kind.lower()} "{reference.get("name", "")}" not found')
    prefix = source.get("prefix", "")
    return ((prefix + key, value) for key, value in (data or {}).items())


def _value(item: Manifest, context: Context, container: Manifest, known: Mapping[str, str]) -> str | None:
    source = item.get("valueFrom")
    if source is None:
        return expand(item.get("value", ""), known)
    if "fieldRef" in source:
        return field_value(source["fieldRef"]["fieldPath"], context)
    if "resourceFieldRef" in source:
        return resource_value(source["resourceFieldRef"], context, container)
    if "configMapKeyRef" in source:
        return _key(source["configMapKeyRef"], "ConfigMap", context.config_map, context)
    return _key(source["secretKeyRef"], "Secret", context.secret, context)


def _key(
    reference: Manifest, kind: str, read: Callable[[str], Mapping[str, str] | None], context: Context
) -> str | None:
    name, key = reference.get("name", ""), reference["key"]
    data = read(name)
    if data is not None and key in data:
        return data[key]
    if reference.get("optional"):
        return None
    if data is None:
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    namespace = context.pod["metadata"]["namespace"]
    raise ConfigError(f"couldn't find key {key} in {kind} {namespace}/{name}")


def field_value(path: str, context: Context) -> str:
    """The value of a downward API field path."""
    metadata, spec = context.pod["metadata"], context.pod["spec"]
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        return str(metadata.get(subscript[1], {}).get(subscript[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        return format_map(metadata.get(path.removeprefix("metadata."), {}))
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": context.pod_ip,
        "status.podIPs": context.pod_ip,
        "status.hostIP": context.host_ip,
        "status.hostIPs": context.host_ip,
    }
    if path not in fields:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return str(fields[path])


def format_map(values: Mapping[str, str]) -> str:
    """Labels or annotations as a downward API file holds them: sorted lines `key="value"`."""
    quoted = {
        key: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for key, value in values.items()
    }
    return "\n".join(f'{key}="{quoted[key]}"' for key in sorted(quoted))


def resource_value(reference: Manifest, context: Context, container: Manifest) -> str:
    """A request or limit as a whole number of divisors; a limit that is not set is the node's allocatable."""
    kind, _, name = reference["resource"].partition(".")
    declared = container.get("resources", {})
    amount = declared.get(kind, {}).get(name)
    if amount is None and kind == "limits":
        amount = context.allocatable.get(name, "0")
    return quantity.in_units_of(str(amount or "0"), str(reference.get("divisor", "1")))
