"""Watches in threads of their own, one for each namespace that is looked after, or one for all.

Kopf ends when the API server forbids one of its watches, as it does in a namespace whose Role was deleted with it. Apart,
such a namespace costs only itself: its watches are started again after a pause, and meanwhile the resync stands in.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import kopf

from mochi_operator import handlers
from mochi_operator.connection import Login
from mochi_operator.handlers import Heard, Wake

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 15.0
STOP_SECONDS = 5.0

Scope = tuple[str, ...]
"""One namespace, or none for the whole cluster."""
Watch = Callable[[Scope, threading.Event], Coroutine[Any, Any, None]]
"""Watches a scope until the flag is set; ends early when it is not allowed to."""


class Watches:
    """Keeps every scope watched."""

    def __init__(
        self, namespaces: Sequence[str], watch: Watch, *, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._watch = watch
        self._pause_seconds = pause_seconds
        self._stopped = threading.Event()
        scopes: list[Scope] = [(name,) for name in namespaces] or [()]
        self._threads = [
            threading.Thread(target=self._keep, args=(scope,), name=f"watch-{'-'.join(scope)}", daemon=True)
            for scope in scopes
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Stop watching; a thread that does not end in time ends with the process."""
        self._stopped.set()
        await asyncio.gather(*(asyncio.to_thread(thread.join, STOP_SECONDS) for thread in self._threads))

    def _keep(self, scope: Scope) -> None:
        where = ", ".join(scope) or "all namespaces"
        while not self._stopped.is_set():
            why = "nobody knows why"
            try:
                asyncio.run(self._watch(scope, self._stopped))
            except Exception as error:
                # Whatever it is, it must not end the watches of the other scopes.
                why = str(error) or type(error).__name__
            if not self._stopped.is_set():
                _log.warning(
                    "the watches of %s have ended (%s); again in %g s", where, why, self._pause_seconds
                )
                self._stopped.wait(self._pause_seconds)


def kopf_watch(environment: Mapping[str, str], wake: Wake, heard: Heard) -> Watch:
    """Kopf as a `Watch`; `wake` is called in the event loop that runs now, `heard` in the thread of the watch."""
    loop = asyncio.get_running_loop()

    def tell(key: tuple[str, str]) -> None:
        loop.call_soon_threadsafe(wake, key)

    async def watch(scope: Scope, stopped: threading.Event) -> None:
        await kopf.operator(
            registry=handlers.registry(tell, heard, Login(environment).for_watches),
            settings=handlers.settings(),
            standalone=True,
            clusterwide=not scope,
            namespaces=scope,
            stop_flag=stopped,
        )

    return watch
