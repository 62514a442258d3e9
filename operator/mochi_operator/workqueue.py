"""A queue of keys: each key at most once in it and at one worker, failures tried again with growing pauses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 300.0


class WorkQueue(Generic[K]):
    """Keys that wait for work; for one event loop."""

    def __init__(self, jitter: random.Random | None = None) -> None:
        self._jitter = jitter or random.Random()
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting) + len(self._again)

    def add(self, key: K) -> None:
        """Have `key` worked on soon; while it is worked on, once more afterwards."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have `key` worked on after so long, unless an earlier time is set for it already."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None and not timer.cancelled() and loop.time() < timer.when() <= due:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._fire, key)

    async def take(self) -> K:
        """The next key; it is the caller's until `done` or `failed`."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._busy.add(key)
        return key

    def done(self, key: K, again_seconds: float | None) -> None:
        """The work on `key` went well; the next is due after `again_seconds`, if given."""
        self._failures.pop(key, None)
        self._release(key)
        if again_seconds is not None:
            self.add_after(key, again_seconds)

    def failed(self, key: K, *, at_least: float = 0.0) -> float:
        """The work on `key` went wrong; it is tried again after the returned number of seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        pause: float = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(count, 30))
        pause = max(at_least, pause * self._jitter.uniform(0.8, 1.2))
        self._again.discard(key)
        self._release(key)
        self.add_after(key, pause)
        return pause

    def close(self) -> None:
        """Cancel all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _release(self, key: K) -> None:
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
