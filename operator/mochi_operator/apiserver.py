"""The Kubernetes API over HTTPS: the few calls the operator makes, as plain JSON.

aiohttp with the credentials that Kopf uses as well, and not the `kubernetes` package: manifests stay plain mappings
from builder to wire, and the process stays small (that package alone is more than half of an idle operator's memory).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

from mochi_operator.cluster import (
    EVENTS,
    FINETUNES,
    AlreadyExistsError,
    ClusterError,
    Kind,
    Manifest,
    NotServedError,
    RefusedError,
    StaleError,
    UnavailableError,
)

CALL_SECONDS = 10.0
PAGE = 500
_JSON = "application/json"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """How to reach the API server right now."""

    server: str
    """Its address, without a slash at the end."""
    session: aiohttp.ClientSession
    """Session that trusts it."""
    headers: Mapping[str, str] = field(repr=False)
    """The credentials; a service account's token changes every hour."""


Connect = Callable[[], Awaitable[Connection]]
"""The connection to use for the next call."""


class ApiServer:
    """`Cluster` on a real API server."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object, or None when there is none or its kind is not installed."""
        try:
            return await self._call("GET", _path(kind, namespace, name))
        except NotServedError:
            return None

    async def list(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        """All objects, page by page, each with its kind, which the API leaves out of lists."""
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = _selector(labels)
        if fields:
            query["fieldSelector"] = _selector(fields)
        found: list[Manifest] = []
        while True:
            page = await self._call("GET", f"{_path(kind, namespace)}?{urlencode(query)}")
            found += [
                {**item, "apiVersion": kind.api_version, "kind": kind.name}
                for item in page.get("items") or []
            ]
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return found

    async def create(self, kind: Kind, namespace: str, manifest: Manifest) -> None:
        """Create one object."""
        await self._call("POST", _path(kind, namespace), manifest)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete one object; its dependents follow."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._call("DELETE", _path(kind, namespace, name), options)
        except (NotServedError, StaleError):
            return

    async def write_status(
        self, namespace: str, name: str, *, resource_version: str, status: Manifest
    ) -> None:
        """Replace the status, if the object is still the one that was read.

        A resourceVersion written by a patch is a precondition: the API server answers 409 when it has moved on, which
        a `test` operation of JSON patch would report as an invalid object.
        """
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "add", "path": "/status", "value": status},
        ]
        await self._call("PATCH", f"{_path(FINETUNES, namespace, name)}/status", patch, _JSON_PATCH)

    async def record(self, namespace: str, event: Manifest) -> None:
        """Create an Event, or move the time of the one that says the same."""
        try:
            await self._call("POST", _path(EVENTS, namespace), event)
        except AlreadyExistsError:
            again = {"lastTimestamp": event["lastTimestamp"]}
            await self._call(
                "PATCH", _path(EVENTS, namespace, event["metadata"]["name"]), again, _MERGE_PATCH
            )

    async def _call(self, method: str, path: str, body: Any = None, content: str = _JSON) -> Manifest:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                connection = await self._connect()
                return await _exchange(connection, method, path, body, content)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(
                f"{method} {path}: no answer within {CALL_SECONDS:g} s: {reason}"
            ) from error


async def _exchange(connection: Connection, method: str, path: str, body: Any, content: str) -> Manifest:
    data = None if body is None else json.dumps(body).encode()
    headers = {**connection.headers, "Content-Type": content, "Accept": _JSON}
    url = connection.server + path
    async with connection.session.request(method, url, data=data, headers=headers) as response:
        text = await response.text()
        if response.status < 400:
            answer: Manifest = json.loads(text)
            return answer
        raise _error(response.status, method, path, text)


def _error(code: int, method: str, path: str, text: str) -> ClusterError:
    reason, message = _told(text)
    said = f"{message or text[:200]} ({method} {path}, HTTP {code})"
    match code:
        case 404:
            return NotServedError(said)
        case 409 if reason == "AlreadyExists":
            return AlreadyExistsError(said)
        case 409:
            return StaleError(said)
        case 400 | 422:
            return RefusedError(message or said, final=True)
        case 403:
            return RefusedError(message or said, final=False)
        case _:
            return UnavailableError(said)


def _told(text: str) -> tuple[str, str]:
    """Reason and message of a `metav1.Status`."""
    try:
        status = json.loads(text)
    except ValueError:
        return "", ""
    return (status.get("reason", ""), status.get("message", "")) if isinstance(status, dict) else ("", "")


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    place = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{root}{place}/{kind.plural}" + (f"/{quote(name)}" if name else "")


def _selector(pairs: Mapping[str, str]) -> str:
    return ",".join(f"{key}={text}" for key, text in pairs.items())
