"""Time limits for what cannot be interrupted: the work runs beside, and what it waits for is known by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mochi_trainer.errors import StorageError

LOOK_SECONDS = 0.1
"""Between two looks at a wait."""


class Watch:
    """What the work is waiting for, since when and for how long at most."""

    def __init__(self, seconds: float, what: str = "the check") -> None:
        self.seconds = seconds
        """For all of the work."""
        self.started = time.monotonic()
        self._wait: tuple[str, float, float] = (what, self.started, seconds)
        self._busy = False

    @property
    def left(self) -> float:
        """Seconds until the work is given up."""
        return self.started + self.seconds - time.monotonic()

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """For the length of the block `what`, an address for example, is waited for."""
        before = self._wait
        self._wait = (what, time.monotonic(), seconds)
        try:
            yield
        finally:
            self._wait = before

    @contextmanager
    def busy(self, what: str, seconds: float) -> Iterator[None]:
        """For the length of the block this process works and waits for nobody: it has a limit of its own and costs no patience.

        On a node that gives it little time that may take long, and says nothing of what is waited for elsewhere.
        """
        begun, self._busy = time.monotonic(), True
        try:
            with self.waiting(what, seconds):
                yield
        finally:
            self.started += time.monotonic() - begun
            self._busy = False

    def overdue(self) -> StorageError | None:
        """The end of the patience, if it has come."""
        now = time.monotonic()
        what, since, seconds = self._wait
        if self._busy:
            return _too_slow(what, now - since) if now - since >= seconds else None
        if now - since >= seconds:
            return StorageError(f"{what}: no answer, waited {now - since:.0f} s")
        if self.left <= 0:
            return StorageError(
                f"{what}: not finished, waited {now - since:.0f} s of {self.seconds:.0f} s for everything"
            )
        return None


def _too_slow(what: str, seconds: float) -> StorageError:
    return StorageError(
        f"{what}: not finished after {seconds:.0f} s",
        action="look at the pod's node: its processor or its disk gives the pod next to nothing",
    )


def run_watched(watch: Watch, work: Callable[[], None]) -> StorageError | None:
    """Run `work` until it ends or `watch` is overdue, which is returned; raise what `work` raises.

    Work that is given up goes on until the process ends: a read from a dead volume cannot be stopped.
    """
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded, name="check", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        if thread.is_alive() and (late := watch.overdue()):
            return late
    if raised:
        raise raised[0]
    return None
