"""The Kubernetes API through `kubernetes.aio`: the few calls the operator makes, as plain JSON.

The package brings connections, credentials and client-go's rule for Retry-After. Its models stay out of the way: what a
builder makes is what is sent, what the server says is what comes back (docs/adr/0009).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException
from kubernetes.aio.utils import (
    Backoff,
    is_retry_after_response,
    on_retry_after_error,
    retry_after_seconds,
)

from mochi_operator.answers import ExpiredError, error_of
from mochi_operator.cluster import (
    EVENTS,
    FINETUNES,
    PODS,
    AlreadyExistsError,
    ClusterError,
    Kind,
    Manifest,
    NotServedError,
    StaleError,
    UnavailableError,
)

CALL_SECONDS = 10.0
"""Longest time of a call, with its repetitions and a login."""
PAGE = 500
LINE_BYTES = 256
"""Length of a line of a log, generously; see `ApiServer.log`."""
_JSON = "application/json"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
_AUTH = ["BearerToken"]
_REPEATS = Backoff(steps=5, duration=0.1, factor=2.0, jitter=0.1)
"""How often a call is made that the server asks to make again; between two of them lies at least its Retry-After."""
_ANSWER_SECONDS = 1.0
"""What must be left of a call's time after waiting as the server asks, so that it can still answer."""


class Connector(Protocol):
    """Where the client for the next call comes from."""

    async def client(self) -> ApiClient:
        """The client, with credentials that are valid now."""
        ...

    def refused(self) -> None:
        """The server did not take the credentials: the next client needs new ones."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    body: Any = None
    content: str = _JSON

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def may_repeat(self, code: int) -> bool:
        """Whether making the call again is safe after this code.

        429 is said before a request has any effect. After a 5xx it may have had one: reads, and a deletion that names
        its object by uid, mean the same when they are made twice; all others are the caller's to make again.
        """
        return code == 429 or self.method in ("GET", "DELETE")


class ApiServer:
    """`Cluster` on a real API server."""

    def __init__(self, connector: Connector, call_seconds: float = CALL_SECONDS) -> None:
        self._connector = connector
        self._call_seconds = call_seconds

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object, or None when there is none or its kind is not installed."""
        try:
            return await self._object(_Request(method="GET", path=_path(kind, namespace, name)))
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
        """All objects, page by page, each with its kind, which the API leaves out of lists.

        Pages are of one moment; when the server has forgotten it between two of them, the list starts over, once.
        """
        chosen = [("labelSelector", _selector(labels))] if labels else []
        chosen += [("fieldSelector", _selector(fields))] if fields else []
        with suppress(ExpiredError):
            return [item async for item in self._items(kind, namespace, chosen)]
        return [item async for item in self._items(kind, namespace, chosen)]

    async def create(self, kind: Kind, namespace: str, manifest: Manifest) -> None:
        """Create one object."""
        await self._object(_Request(method="POST", path=_path(kind, namespace), body=manifest))

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete one object; its dependents follow."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        with suppress(NotServedError, StaleError):
            await self._object(_Request(method="DELETE", path=_path(kind, namespace, name), body=options))

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
        path = f"{_path(FINETUNES, namespace, name)}/status"
        await self._object(_Request(method="PATCH", path=path, body=patch, content=_JSON_PATCH))

    async def record(self, namespace: str, event: Manifest) -> None:
        """Create an Event, or move the time of the one that says the same."""
        try:
            await self._object(_Request(method="POST", path=_path(EVENTS, namespace), body=event))
        except AlreadyExistsError:
            path = _path(EVENTS, namespace, event["metadata"]["name"])
            again = {"lastTimestamp": event["lastTimestamp"]}
            await self._object(_Request(method="PATCH", path=path, body=again, content=_MERGE_PATCH))

    async def log(
        self, namespace: str, pod: str, *, container: str, since_seconds: int, limit_bytes: int
    ) -> str | None:
        """The last lines of a container's log; see `Cluster.log`.

        The kubelet's limitBytes cuts the end off, not the beginning. So as many lines are asked for as should fit, and
        fewer when the answer is as long as the limit.

        Without a log are: 404, the pod is gone; 400, the container has not started or is none of this pod's; any 5xx,
        which is how the API server passes on that a kubelet does not answer; no answer in time, for the same reason.
        """
        query = [
            ("container", container),
            ("sinceSeconds", str(since_seconds)),
            ("limitBytes", str(limit_bytes)),
        ]
        request = _Request(method="GET", path=f"{_path(PODS, namespace, pod)}/log", query=query)
        try:
            return (await self._tail(request, limit_bytes)).decode(errors="replace")
        except TimeoutError:
            return None
        except ApiException as error:
            if error.status in (400, 404) or error.status >= 500:
                return None
            raise self._meaning(request, error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._meaning(request, error) from error

    async def _items(
        self, kind: Kind, namespace: str | None, chosen: Sequence[tuple[str, str]]
    ) -> AsyncIterator[Manifest]:
        token = ""
        while True:
            query = [("limit", str(PAGE)), *chosen, *([("continue", token)] if token else [])]
            page = await self._object(_Request(method="GET", path=_path(kind, namespace), query=query))
            for item in page.get("items") or []:
                yield {**item, "apiVersion": kind.api_version, "kind": kind.name}
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return

    async def _object(self, request: _Request) -> Manifest:
        answer = await self._answer(request)
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UnavailableError(f"{request}: the answer is no JSON object: {answer[:200]!r}")
        return found

    async def _answer(self, request: _Request) -> bytes:
        """Body of the answer; raises ClusterError."""
        try:
            return await self._ask(request, self._deadline())
        except ApiException as error:
            raise self._meaning(request, error) from None  # all that it knows is told
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._meaning(request, error) from error

    async def _tail(self, request: _Request, limit_bytes: int) -> bytes:
        """A log, asked for with fewer lines until its end fits the limit; a single line may be cut."""
        deadline, lines = self._deadline(), max(1, limit_bytes // LINE_BYTES)
        while True:
            tail = replace(request, query=[*request.query, ("tailLines", str(lines))])
            found = await self._ask(tail, deadline)
            if len(found) < limit_bytes or lines == 1:
                return found
            lines = max(1, lines // 8)

    async def _ask(self, request: _Request, deadline: float) -> bytes:
        """Body of the answer; raises what the package raises, TimeoutError at the deadline."""
        async with asyncio.timeout_at(deadline):
            client = await self._connector.client()
            return await on_retry_after_error(
                _REPEATS, _repeatable(request, deadline), lambda: _exchange(client, request)
            )

    def _meaning(self, request: _Request, error: Exception) -> ClusterError:
        if not isinstance(error, ApiException):
            said = str(error) or type(error).__name__
            return UnavailableError(f"{request}: no answer within {self._call_seconds:g} s: {said}")
        if error.status == 401:
            self._connector.refused()
        return error_of(error.status, error.body or "", str(request), retry_after_seconds(error))

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._call_seconds


def _repeatable(request: _Request, deadline: float) -> Callable[[Exception], bool]:
    """Whether an error is to be followed by the same call: the server asks for it, it is safe, and there is time."""

    def repeatable(error: Exception) -> bool:
        if not (isinstance(error, ApiException) and is_retry_after_response(error)):
            return False
        seconds = retry_after_seconds(error) or 0.0
        again_at = asyncio.get_running_loop().time() + seconds
        return request.may_repeat(error.status) and again_at + _ANSWER_SECONDS < deadline

    return repeatable


async def _exchange(client: ApiClient, request: _Request) -> bytes:
    """Ask once; raises ApiException with the body of an answer of 400 or more."""
    method, url, headers, body, _ = await client.param_serialize(
        request.method,
        request.path,
        query_params=list(request.query),
        header_params={"Accept": f"{_JSON}, */*", "Content-Type": request.content},
        body=request.body,
        auth_settings=_AUTH,
    )
    unbounded = aiohttp.ClientTimeout()  # the call has a limit of its own, for all its repetitions
    response = await client.call_api(method, url, headers, body, _request_timeout=unbounded)
    text: bytes = await response.read()
    if response.status >= 400:
        raise ApiException(http_resp=response)
    return text


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    place = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{root}{place}/{kind.plural}" + (f"/{quote(name)}" if name else "")


def _selector(pairs: Mapping[str, str]) -> str:
    return ",".join(f"{key}={text}" for key, text in pairs.items())
