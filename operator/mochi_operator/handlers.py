"""Kopf: watches that wake runs up, and nothing else. No handler keeps state, adds a finalizer or writes an object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from mochi_api import identity
from mochi_operator.cluster import FINETUNES, JOBS, PODS, PYTORCHJOBS, Kind

WATCHED: tuple[Kind, ...] = (FINETUNES, JOBS, PYTORCHJOBS, PODS)
"""Kinds that Kopf lists and watches."""
CHILDREN: tuple[Kind, ...] = (JOBS, PYTORCHJOBS, PODS)

LOGIN_AGAIN_SECONDS = 5.0
"""After a login that failed; no watch is renewed meanwhile. Kopf's own choice is a minute."""

Wake = Callable[[tuple[str, str]], None]
"""Called with namespace and name of the run that something happened to."""
Heard = Callable[[str], None]
"""Called with the plural of what an event was of."""


def registry(
    wake: Wake, heard: Heard, login: Callable[[], Awaitable[kopf.ConnectionInfo]]
) -> kopf.OperatorRegistry:
    """The handlers. A kind that the cluster does not know is left out by Kopf with a warning; the resync covers it."""
    handlers = kopf.OperatorRegistry()

    async def credentials(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    async def run_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        heard(FINETUNES.plural)
        if namespace and name:
            wake((namespace, name))

    async def child_changed(
        resource: kopf.Resource, namespace: str | None, labels: Mapping[str, str], **_: Any
    ) -> None:
        heard(resource.plural)
        name = labels.get(identity.LABEL_FINETUNE)
        if namespace and name:
            wake((namespace, name))

    kopf.on.login(registry=handlers, id="login", backoff=LOGIN_AGAIN_SECONDS)(credentials)
    kopf.on.event(FINETUNES.group, FINETUNES.version, FINETUNES.plural, registry=handlers, id="run")(
        run_changed
    )
    for kind in CHILDREN:
        kopf.on.event(
            kind.group,
            kind.version,
            kind.plural,
            labels={identity.LABEL_FINETUNE: kopf.PRESENT},
            registry=handlers,
            id=kind.plural,
        )(child_changed)
    return handlers


def settings() -> kopf.OperatorSettings:
    """Kopf as a watcher: no scanning of CRDs and namespaces, no Events, no silent streams, every call bounded."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.posting.loggers = False
    chosen.networking.request_timeout = 10
    chosen.networking.connect_timeout = 5
    chosen.networking.error_backoffs = (1, 2, 4)
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 310
    chosen.watching.connect_timeout = 30
    chosen.watching.reconnect_backoff = 2
    for kind in CHILDREN:
        chosen.watching.label_selectors[kind.group, kind.version, kind.plural] = identity.LABEL_FINETUNE
    return chosen
