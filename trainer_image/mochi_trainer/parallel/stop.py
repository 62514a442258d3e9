"""How a pod of several processes is told to stop: the first of them hears it, and passes it on."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of prctl(2)."""


class Stop:
    """SIGTERM and SIGINT for the length of a `with` block in the main thread: remembered, and passed on."""

    def __init__(self) -> None:
        self.requested = False
        """Whether one of them has come."""
        self._pass_on: Callable[[], None] = _nobody
        self._before: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Self:
        self._before = [(each, signal.signal(each, self._heard)) for each in (signal.SIGTERM, signal.SIGINT)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def passes_on(self, terminate: Callable[[], None]) -> None:
        """Call `terminate` whenever a signal comes from now on, and now if one has come already."""
        self._pass_on = terminate
        if self.requested:
            terminate()

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self._pass_on()


def _nobody() -> None:
    pass


def end_with_parent() -> None:
    """Let this process be told to stop when the one that started it is killed: it would train on, unseen."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGTERM))
