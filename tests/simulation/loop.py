"""An asyncio event loop whose time is a number: when nothing is ready it jumps to the next timer; no I/O, no sleeping."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set: everybody waits for ever."""


class _Jump(selectors.BaseSelector):
    """A selector on which nothing ever happens; waiting for it moves the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, int(fileobj), events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError("nothing is ready and no timer is set")
        if timeout > 0:
            self.now += timeout
        return []

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[fileobj]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """The real loop of asyncio over virtual time, so that queue, workers and time limits run unchanged."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self._jump.now
