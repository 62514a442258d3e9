"""What /etc/hosts of each pod says: the stand-in for cluster DNS. Pure.

There is no kube-proxy: a Service name resolves to one ready pod, so the ports to use are the pod's own. A Service
of type ExternalName whose externalName is an IP address resolves to that address (other such names are left out).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DOMAIN = "cluster.local"
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A pod as Services see it."""

    namespace: str
    name: str
    ip: str
    ready: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    subdomain: str = ""


def endpoint_of(pod: Mapping[str, Any]) -> Endpoint | None:
    """A pod of another node as its status tells; None when it has no address (any more)."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    if not status.get("podIP") or status.get("phase") in _ENDED:
        return None
    ready = any((item["type"], item["status"]) == ("Ready", "True") for item in status.get("conditions", ()))
    return Endpoint(
        namespace=metadata["namespace"],
        name=metadata["name"],
        ip=status["podIP"],
        ready=ready and "deletionTimestamp" not in metadata,
        labels=metadata.get("labels", {}),
        hostname=spec.get("hostname") or metadata["name"],
        subdomain=spec.get("subdomain", ""),
    )


def selected(service: Mapping[str, Any], endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """The pods behind a Service that its name may resolve to."""
    selector = service["spec"].get("selector")
    if not selector:
        return []
    unready_too = bool(service["spec"].get("publishNotReadyAddresses"))
    return [
        item
        for item in endpoints
        if item.namespace == service["metadata"]["namespace"]
        and (item.ready or unready_too)
        and all(item.labels.get(key) == value for key, value in selector.items())
    ]


def address(service: Mapping[str, Any], endpoints: Iterable[Endpoint], api_server: str) -> str | None:
    """The one address a Service name resolves to; None when nothing is ready behind it."""
    metadata, spec = service["metadata"], service["spec"]
    if (metadata["namespace"], metadata["name"]) == ("default", "kubernetes"):
        return api_server
    if spec.get("type") == "ExternalName":
        return _ip_or_none(spec.get("externalName", ""))
    found = selected(service, endpoints)
    return min(found, key=lambda item: item.name).ip if found else None


def _ip_or_none(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def service_names(name: str, namespace: str, viewer_namespace: str) -> list[str]:
    """Every name a pod in `viewer_namespace` may call a Service by."""
    full = f"{name}.{namespace}"
    short = [name] if namespace == viewer_namespace else []
    return [*short, full, f"{full}.svc", f"{full}.svc.{DOMAIN}"]


def render(
    viewer: Endpoint,
    services: Sequence[Mapping[str, Any]],
    endpoints: Sequence[Endpoint],
    *,
    api_server: str,
    aliases: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The hosts file of one pod."""
    own = [viewer.hostname or viewer.name]
    if viewer.subdomain:
        own.insert(0, f"{own[0]}.{viewer.subdomain}.{viewer.namespace}.svc.{DOMAIN}")
    lines = ["# written by the devcluster agent", "127.0.0.1 localhost", f"{viewer.ip} {' '.join(own)}"]
    lines += _service_lines(viewer, services, endpoints, api_server)
    lines += [f"{item['ip']} {' '.join(item.get('hostnames', ()))}" for item in aliases]
    return "\n".join(lines) + "\n"


def _service_lines(
    viewer: Endpoint, services: Sequence[Mapping[str, Any]], endpoints: Sequence[Endpoint], api_server: str
) -> Iterator[str]:
    for service in sorted(
        services, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"])
    ):
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        ip = address(service, endpoints, api_server)
        if ip is not None:
            yield f"{ip} {' '.join(service_names(name, namespace, viewer.namespace))}"
        for item in selected(service, endpoints):
            if item.subdomain == name and item.hostname:
                yield f"{item.ip} {' '.join(service_names(f'{item.hostname}.{name}', namespace, viewer.namespace))}"
