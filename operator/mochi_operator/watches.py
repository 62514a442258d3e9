"""Kopf's watches in threads of their own, one for each namespace that is looked after, or one for all.

Kopf ends when the API server forbids one of its watches, as it does in a namespace whose Role was deleted with it. Apart,
such a namespace costs only itself: its watches are started again after a pause, and meanwhile the resync stands in.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence

import kopf

from mochi_operator import handlers
from mochi_operator.connection import Login, LoginError
from mochi_operator.handlers import Wake

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 15.0
STOP_SECONDS = 5.0


class Watches:
    """Calls `wake` in the event loop that started it."""

    def __init__(self, namespaces: Sequence[str], environment: Mapping[str, str], wake: Wake) -> None:
        self._environment = environment
        self._wake = wake
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        scopes: list[tuple[str, ...]] = [(name,) for name in namespaces] or [()]
        self._threads = [
            threading.Thread(target=self._watch, args=(scope,), name=f"watch-{'-'.join(scope)}", daemon=True)
            for scope in scopes
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Stop watching; a thread that does not end in time ends with the process."""
        self._stopped.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, STOP_SECONDS)

    def _watch(self, scope: tuple[str, ...]) -> None:
        where = ", ".join(scope) or "all namespaces"
        while not self._stopped.is_set():
            try:
                asyncio.run(self._kopf(scope))
            except (Exception, LoginError) as error:
                _log.warning("the watches of %s have ended: %s", where, error or type(error).__name__)
            if not self._stopped.is_set():
                _log.info("the watches of %s start again after %g s", where, PAUSE_SECONDS)
                self._stopped.wait(PAUSE_SECONDS)

    async def _kopf(self, scope: tuple[str, ...]) -> None:
        await kopf.operator(
            registry=handlers.registry(self._tell, Login(self._environment).for_watches),
            settings=handlers.settings(),
            standalone=True,
            clusterwide=not scope,
            namespaces=scope,
            stop_flag=self._stopped,
        )

    def _tell(self, key: tuple[str, str]) -> None:
        self._loop.call_soon_threadsafe(self._wake, key)
