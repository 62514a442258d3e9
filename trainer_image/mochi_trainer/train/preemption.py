"""SIGTERM: remembered, so that the step at hand is finished and saved before the process ends."""

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
    """Holds SIGTERM back for the length of a `with` block, which must run in the main thread."""

    def __init__(self) -> None:
        self.requested = False
        """Whether the signal has come."""
        self.since: float | None = None
        """When it came, of the monotonic clock."""
        self._before: dict[signal.Signals, Any] = {}
        self._at_once = self._leaving = False

    def check(self) -> None:
        """Raise PreemptedError when the signal has come; for places where there is nothing to save."""
        if self.requested:
            raise PreemptedError("stopped by SIGTERM before the first step")

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
        for number in (signal.SIGTERM, signal.SIGALRM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, before in self._before.items():
            signal.signal(number, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature is Python's
        self.requested = True
        self.since = time.monotonic() if self.since is None else self.since
        if self._at_once and not self._leaving:
            self._leaving = True
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
        if self._leaving:
            raise KeyboardInterrupt("stopped by SIGTERM before the first step")
