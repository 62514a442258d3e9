"""SIGTERM, and Ctrl-C by hand: remembered, so that the step at hand is finished and saved before the process ends."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from mochi_trainer.errors import PreemptedError
from mochi_trainer.movement import PROCESS

log = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0
"""Between two interruptions of a main thread that is to end and waits for another one."""


class Preemption:
    """Holds SIGTERM and SIGINT back for the length of a `with` block, which must run in the main thread.

    A second SIGINT interrupts at once, as Python does: the person at the terminal does not want to wait.
    """

    def __init__(self) -> None:
        self.requested = False
        """Whether the signal has come."""
        self.since: float | None = None
        """When it came, of the monotonic clock."""
        self.name = signal.SIGTERM.name
        """The one that came; on a rank that is stopped with another one the usual one."""
        self._before: dict[signal.Signals, Any] = {}
        self._at_once = self._leaving = self._interrupted = False

    def check(self) -> None:
        """Raise PreemptedError when the signal has come; for places where there is nothing to save."""
        if self.requested:
            raise PreemptedError(f"stopped by {self.name} before the first step")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, where there is nothing to save, the signal raises PreemptedError wherever the main thread is.

        The threads that read for it stop with their next piece of bytes. The main thread is interrupted as by Ctrl-C, which
        libraries let through, and again every few seconds, so that it waits for no thread that hangs.
        """
        self.check()
        self._at_once = True
        try:
            with PROCESS.heard(self.check):
                yield
        except KeyboardInterrupt:
            self.check()
            raise
        finally:
            self._at_once = False

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, before in self._before.items():
            signal.signal(number, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature is Python's
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt("interrupted again")
        self._interrupted |= number == signal.SIGINT
        if not self.requested:
            self.name = signal.Signals(number).name
        self.requested = True
        self.since = time.monotonic() if self.since is None else self.since
        if self._at_once and not self._leaving:
            self._leaving = True
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
        if self._leaving:
            raise KeyboardInterrupt(f"stopped by {self.name} before the first step")
