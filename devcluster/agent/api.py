"""A small client of the Kubernetes API over `http.client`: one connection a request, a limit on every wait."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

TIMEOUT = 10.0
"""Seconds for one request."""
WATCH_SECONDS = 60
"""How long the server keeps one watch open; the socket waits a little longer."""
JSON_TYPE = "application/json"
MERGE_TYPE = "application/merge-patch+json"
STRATEGIC_TYPE = "application/strategic-merge-patch+json"
HTTP_NOT_FOUND = 404
HTTP_CONFLICT = 409
HTTP_GONE = 410
_FIRST_ERROR = 400


class ApiError(Exception):
    """The API server refused; `status` is the HTTP code, `reason` the word in the Status object."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach and authenticate to an API server; the part of a kubeconfig that matters here."""

    server: str
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str | None = None
    verify: bool = True

    @property
    def host(self) -> str:
        """Host of the server's address."""
        return urlsplit(self.server).hostname or ""

    @property
    def port(self) -> int:
        """Port of the server's address."""
        return urlsplit(self.server).port or 443


def read_kubeconfig(path: Path) -> Access:
    """The access of the current context; `ValueError` when the file does not hold one."""
    document = yaml.safe_load(path.read_text()) or {}
    context = _named(document, "contexts", document.get("current-context", ""), path)["context"]
    cluster = _named(document, "clusters", context["cluster"], path)["cluster"]
    user = _named(document, "users", context["user"], path)["user"]
    token = _content(user, "tokenFile", path)
    return Access(
        server=cluster["server"],
        ca=_content(cluster, "certificate-authority", path),
        certificate=_content(user, "client-certificate", path),
        key=_content(user, "client-key", path),
        token=user.get("token") or (token.decode().strip() if token else None),
        verify=not cluster.get("insecure-skip-tls-verify", False),
    )


def _named(document: Mapping[str, Any], kind: str, name: str, path: Path) -> Mapping[str, Any]:
    for item in document.get(kind) or ():
        if item["name"] == name:
            return dict(item)
    raise ValueError(f"kubeconfig {path}: no entry {name!r} in {kind}")


def _content(section: Mapping[str, Any], key: str, path: Path) -> bytes | None:
    if f"{key}-data" in section:
        return base64.b64decode(section[f"{key}-data"])
    return (path.parent / section[key]).read_bytes() if key in section else None


def _tls(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=access.ca.decode() if access.ca else None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not access.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if access.certificate and access.key:
        _load_pair(context, access.certificate, access.key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """`ssl` reads key pairs from files only; this one lives no longer than the call, readable by its owner."""
    descriptor, name = tempfile.mkstemp(prefix="devcluster-agent-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()


class Api:
    """Requests to one API server. Safe to use from many threads."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._tls = _tls(access) if access.server.startswith("https") else None

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self.access.host, self.access.port, timeout=timeout)
        return http.client.HTTPSConnection(
            self.access.host, self.access.port, timeout=timeout, context=self._tls
        )

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any, content_type: str
    ) -> http.client.HTTPResponse:
        headers = {"Accept": JSON_TYPE, "User-Agent": "devcluster-agent"}
        if self.access.token:
            headers["Authorization"] = f"Bearer {self.access.token}"
        payload = None if body is None else json.dumps(body)
        if payload is not None:
            headers["Content-Type"] = content_type
        connection.request(method, path, body=payload, headers=headers)
        response = connection.getresponse()
        if response.status >= _FIRST_ERROR:
            raise _error(response)
        return response

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = JSON_TYPE,
        query: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One request. Raises `ApiError` when refused, `OSError` when the server can not be reached in time."""
        connection = self._connection(TIMEOUT)
        try:
            response = self._send(connection, method, _with_query(path, query), body, content_type)
            return dict(json.loads(response.read() or b"{}"))
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """GET an object or a list."""
        return self.request("GET", path, query=query)

    def find(self, path: str) -> dict[str, Any] | None:
        """GET an object; None when it does not exist."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == HTTP_NOT_FOUND:
                return None
            raise

    def watch(self, path: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Events of one watch until the server ends it."""
        connection = self._connection(WATCH_SECONDS + TIMEOUT)
        full = {**query, "watch": "true", "timeoutSeconds": WATCH_SECONDS, "allowWatchBookmarks": "true"}
        try:
            response = self._send(connection, "GET", _with_query(path, full), None, JSON_TYPE)
            while line := response.readline():
                yield json.loads(line)
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"watch {path}: {error!r}") from error
        finally:
            connection.close()


def _with_query(path: str, query: Mapping[str, Any] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _error(response: http.client.HTTPResponse) -> ApiError:
    text = response.read().decode(errors="replace")
    try:
        status = json.loads(text)
        return ApiError(response.status, str(status.get("reason", "")), str(status.get("message", text)))
    except (ValueError, AttributeError):
        return ApiError(response.status, response.reason, text[:500])
