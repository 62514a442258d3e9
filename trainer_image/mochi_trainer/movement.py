"""What this process is doing, and since when nothing has moved: its sign of life, and the lines of the log that carry it.

A process has one sign of life as it has one log: `PROCESS`. The code that works tells it of each thing that is done; the
threads that show it never do, so that a main thread that hangs is seen to hang. A thread that does something beside the
work tells a movement of its own (`beside`), for the same reason.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mochi_api.heartbeat import LINE_SECONDS, Heartbeat

log = logging.getLogger(__name__)

EVERY_SECONDS = LINE_SECONDS * 2 / 3
"""Time between two lines: a busy machine may be late by the rest of what is promised."""

Details = Callable[[], Mapping[str, Any]]
"""Further fields of the sign of life, by name."""


class Movement:
    """When something last moved. Any thread may tell it, and any may ask."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._activity = "starting"
        self._done = self._total = 0
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._details: Details = dict
        self._threads = threading.local()
        self.attempt = 0
        """Attempt of the step that this process belongs to; 0 while it is not known."""

    def moved(self, _size: int = 0) -> None:
        """Something is done: a step, a clip, a piece of bytes, a tensor; or a peer arrived. What a listener raises is raised."""
        told = self.of_thread()
        if told is not self:
            told.moved()
            return
        self._last = self._clock()
        for listener in self._listeners:
            listener()

    def of_thread(self) -> Movement:
        """The one that this thread tells; for callbacks that others call."""
        found: Movement = getattr(self._threads, "own", self)
        return found

    @contextmanager
    def beside(self, other: Movement) -> Iterator[None]:
        """For the length of the block what this thread does moves `other`, and not this."""
        before, self._threads.own = self.of_thread(), other
        try:
            yield
        finally:
            self._threads.own = before

    def doing(self, activity: str) -> None:
        """Something else begins, as `mochi_api.heartbeat` names it."""
        self._activity = activity
        self.moved()

    def worked(self, done: int, total: int) -> None:
        """`done` clips (captions, steps) of `total` are done."""
        self._done, self._total = done, total
        self.doing("working")

    def heartbeat(self) -> Heartbeat:
        """The sign of life now."""
        return Heartbeat.model_validate(
            {
                "attempt": self.attempt,
                "activity": self._activity,
                "quiet_seconds": round(self._clock() - self._last, 3),
                "done": self._done,
                "total": self._total,
                **self._details(),
            }
        )

    @contextmanager
    def heard(self, listener: Callable[[], None]) -> Iterator[None]:
        """For the length of the block `listener` is called, in the thread that moves, at each movement; it may raise."""
        before = self._listeners
        self._listeners = (*before, listener)
        try:
            yield
        finally:
            self._listeners = before

    @contextmanager
    def described(self, details: Details) -> Iterator[None]:
        """For the length of the block the sign of life has these fields too."""
        before, self._details = self._details, details
        try:
            yield
        finally:
            self._details = before

    @property
    def quiet(self) -> float:
        """Seconds since anything moved."""
        return self._clock() - self._last


PROCESS = Movement()
"""That of this process."""


@contextmanager
def heartbeats(movement: Movement, *, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Write the sign of life into the log at once and every so many seconds, from a thread, for the length of the block."""

    def write(over: threading.Event) -> None:
        while True:
            log.info("%s", movement.heartbeat().to_line(), extra={"plain": True})
            if over.wait(every):
                return

    with in_thread(write, name="heartbeats"):
        yield


@contextmanager
def in_thread(act: Callable[[threading.Event], None], *, name: str) -> Iterator[None]:
    """Run `act` in a thread for the length of the block; the event that it is given is set when the block is over."""
    over = threading.Event()
    thread = threading.Thread(target=act, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)
