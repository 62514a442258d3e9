"""Where the API server is and who we are: the pod's service account, or `KUBECONFIG` outside of a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import kopf

from mochi_operator.apiserver import Connection

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
FRESH_SECONDS = 60.0
"""How long a token that was read is used; the kubelet renews it minutes before it ends."""


class LoginError(Exception):
    """There are no credentials for the Kubernetes API."""


def login(environment: Mapping[str, str], settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """Credentials as they are now; raises LoginError when there are none.

    The address comes from the environment that the kubelet sets, so that no name need be resolved.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (ACCOUNT / "token").exists():
        return kopf.ConnectionInfo(
            server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            ca_path=str(ACCOUNT / "ca.crt"),
            token=(ACCOUNT / "token").read_text(encoding="utf-8").strip(),
        )
    found = kopf.login_with_kubeconfig(settings=settings)
    if found is None:
        raise LoginError(
            "no credentials for the Kubernetes API: neither a service account nor KUBECONFIG is there"
        )
    return found


class Connector:
    """Hands out the connection for the next call, with credentials that are at most a minute old."""

    def __init__(self, environment: Mapping[str, str], settings: kopf.OperatorSettings) -> None:
        self._environment = environment
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._connection: Connection | None = None
        self._read_at = 0.0

    async def __call__(self) -> Connection:
        """The connection; credentials are read again when they are old."""
        if self._connection is None or time.monotonic() - self._read_at > FRESH_SECONDS:
            self._connection = self._fresh()
            self._read_at = time.monotonic()
        return self._connection

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    def _fresh(self) -> Connection:
        info = login(self._environment, self._settings)
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=info.as_ssl_context(), limit=32)
            self._session = aiohttp.ClientSession(connector=connector)
        return Connection(
            server=info.server.rstrip("/"), session=self._session, headers=info.as_http_headers()
        )
