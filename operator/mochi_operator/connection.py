"""Who we are and where the API server is: one login, with `kubernetes.aio.config`, for our calls and for Kopf's watches.

The pod's service account, or `KUBECONFIG` outside of a cluster: client certificates, tokens, OIDC and exec plugins.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import kopf
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_kube_config
from kubernetes.aio.config.incluster_config import InClusterConfigLoader
from kubernetes.aio.config.kube_config import KubeConfigLoader
from yaml import YAMLError

from mochi_operator import VERSION

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
FRESH_SECONDS = 60.0
"""How long credentials that were read are used; the kubelet renews a token minutes before it ends."""
REFUSED_SECONDS = 5.0
"""Shortest time between two logins after the API server did not take the credentials."""
LOGIN_SECONDS = 8.0
"""Longest time of a login, which an exec plugin may take; shorter than a call, whose time it counts against."""
WATCH_FRESH = timedelta(minutes=10)
"""How long Kopf uses what it got; then it asks again, and its watches start anew, as they do every few minutes."""
CONNECTIONS = 32

_log = logging.getLogger(__name__)


class LoginError(Exception):
    """There are no credentials for the Kubernetes API."""


class _Source(Protocol):
    """A place that credentials come from."""

    async def load(self, configuration: Configuration) -> None:
        """Put what is there now into the configuration."""
        ...


@dataclass(frozen=True, slots=True)
class _ServiceAccount:
    """The pod's own: address from the environment, so that no name need be resolved; token and CA from files."""

    environment: Mapping[str, str]
    folder: Path

    async def load(self, configuration: Configuration) -> None:
        InClusterConfigLoader(
            token_filename=str(self.folder / "token"),
            cert_filename=str(self.folder / "ca.crt"),
            try_refresh_token=False,  # the hook would read the file in every call; `Connector` reads it every minute
            environ={"KUBERNETES_SERVICE_PORT": "443", **self.environment},
        ).load_and_set(configuration)


@dataclass(slots=True)
class _KubeConfig:
    """The current context of one or more files, read once; a plugin runs again before its token ends."""

    paths: str
    _loader: KubeConfigLoader | None = field(default=None, init=False)

    async def load(self, configuration: Configuration) -> None:
        if self._loader is None:
            self._loader = await load_kube_config(
                self.paths, client_configuration=configuration, persist_config=False
            )
        else:
            await self._loader.load_and_set(configuration)


class Login:
    """Reads credentials when it is asked to; keeps none but the source that they come from."""

    def __init__(
        self,
        environment: Mapping[str, str],
        account: Path = ACCOUNT,
        seconds: float = LOGIN_SECONDS,
    ) -> None:
        self._environment = environment
        self._account = account
        self._seconds = seconds
        self._source: _Source | None = None
        self._running: asyncio.Task[Configuration] | None = None
        self._watching: kopf.ConnectionInfo | None = None

    async def read(self, *, anew: bool = False) -> Configuration:
        """Credentials as they are now, from a plugin also when its last ones have not ended if `anew`.

        A login that takes too long goes on, so that at most one plugin waits for somebody; what it brings in the end
        is for the next who asks. Raises LoginError when there are no credentials.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._load(anew))
        login = self._running
        done, _ = await asyncio.wait({login}, timeout=self._seconds)
        if not done:
            raise LoginError(f"the login takes longer than {self._seconds:g} s: is an exec plugin waiting?")
        if self._running is login:
            self._running = None
        return login.result()

    async def _load(self, anew: bool) -> Configuration:
        if self._source is None or anew:
            self._source = _source(self._environment, self._account)
        configuration = Configuration(
            connection_pool_maxsize=CONNECTIONS,
            client_session_kwargs={"trust_env": False},  # a proxy comes from KUBECONFIG, as for Kopf
        )
        try:
            await self._source.load(configuration)
        except (ConfigException, YAMLError, OSError, KeyError, TypeError, ValueError) as error:
            raise LoginError(f"the credentials for the Kubernetes API cannot be read: {error}") from error
        if configuration.host.startswith("https:") and not (configuration.api_key or configuration.cert_file):
            raise LoginError(
                "the kubeconfig gives neither token nor certificate; if it names an exec plugin, "
                "the line of kubernetes.aio.config before this one says how that failed"
            )
        return configuration

    async def for_watches(self) -> kopf.ConnectionInfo:
        """Credentials for Kopf, which asks at the start, after WATCH_FRESH and when they were refused.

        Unchanged ones keep their end: Kopf must see that they are those that were refused.
        """
        now = datetime.now(UTC)
        found = await connection_info(await self.read(anew=True), now + WATCH_FRESH)
        last = self._watching
        if last is not None and last.expiration is not None and now < last.expiration:
            found = last if replace(found, expiration=last.expiration) == last else found
        self._watching = found
        return found


class Connector:
    """Hands out the client for the next call, with credentials that are at most a minute old."""

    def __init__(self, login: Login, clock: Callable[[], float] = time.monotonic) -> None:
        self._login = login
        self._clock = clock
        self._lock = asyncio.Lock()
        self._client: ApiClient | None = None
        self._retired: ApiClient | None = None
        self._read_at = 0.0
        self._fresh_seconds = FRESH_SECONDS
        self._anew = False

    async def client(self) -> ApiClient:
        """The client; credentials are read again when they are old. Raises LoginError the first time only."""
        async with self._lock:
            if self._client is None:
                self._client = _client(await self._login.read())
                self._read_at = self._clock()
            elif self._clock() - self._read_at >= self._fresh_seconds:
                self._client = await self._renewed(self._client)
                self._read_at, self._fresh_seconds = self._clock(), FRESH_SECONDS
            return self._client

    def refused(self) -> None:
        """The API server did not take the credentials: get new ones, a plugin's too, soon."""
        self._anew, self._fresh_seconds = True, REFUSED_SECONDS

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._client, self._retired):
            if client is not None:
                await client.close()

    async def _renewed(self, client: ApiClient) -> ApiClient:
        """The same client with new credentials, or another one when address or certificates are others."""
        try:
            found = await self._login.read(anew=self._anew)
            self._anew = False
            if _endpoint(found) == _endpoint(client.configuration):
                client.configuration.api_key = found.api_key
                return client
            other = _client(found)
        except LoginError as error:
            _log.warning("the old credentials are used on: %s", error)
            return client
        if self._retired is not None:
            await self._retired.close()
        self._retired = client  # calls on it are under way; they end before the next change
        return other


async def connection_info(configuration: Configuration, expiration: datetime | None) -> kopf.ConnectionInfo:
    """The same credentials as Kopf takes them."""
    scheme, _, token = (await configuration.get_api_key_with_prefix("BearerToken") or "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host.rstrip("/"),
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
        expiration=expiration,
    )


def _source(environment: Mapping[str, str], account: Path) -> _Source:
    if environment.get("KUBERNETES_SERVICE_HOST") and (account / "token").exists():
        return _ServiceAccount(environment, account)
    home = Path(environment.get("HOME") or Path.home())
    paths = environment.get("KUBECONFIG") or str(home / ".kube" / "config")
    if not any(path and Path(path).expanduser().exists() for path in paths.split(os.pathsep)):
        raise LoginError(
            "no credentials for the Kubernetes API: neither a service account nor KUBECONFIG is there"
        )
    return _KubeConfig(paths)


def _client(configuration: Configuration) -> ApiClient:
    try:
        client = ApiClient(configuration)
    except OSError as error:
        raise LoginError(
            f"the certificates for the Kubernetes API at {configuration.host} cannot be used: {error}"
        ) from error
    client.user_agent = f"mochi-operator/{VERSION}"
    return client


def _endpoint(configuration: Configuration) -> tuple[object, ...]:
    """What a client's connections are made with; all but the token."""
    return (
        configuration.host,
        configuration.ssl_ca_cert,
        configuration.cert_file,
        configuration.key_file,
        configuration.verify_ssl,
        configuration.tls_server_name,
        configuration.proxy,
    )
