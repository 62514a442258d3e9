"""The one module that knows how the operator is put together: its real parts on a simulated edge, as `__main__` wires them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta

from mochi_operator.backend.pytorchjob import PyTorchJobBackend
from mochi_operator.controller import Controller
from mochi_operator.gather import Gatherer, Key
from mochi_operator.metrics import Metrics
from mochi_operator.prober import Prober
from mochi_operator.pulse import Pulse
from mochi_operator.settings import Settings
from mochi_operator.workqueue import WorkQueue
from tests.simulation.apiserver import Client, Server
from tests.simulation.kernel import START, Kernel
from tests.simulation.telephone import Telephone

SETTINGS = Settings(trainer_image="registry.example/mochi-trainer:1", workers=2)


class OperatorProcess:
    """One operator, from its start until it is killed."""

    def __init__(
        self,
        kernel: Kernel,
        server: Server,
        telephone: Telephone,
        name: str,
        died: Callable[[], None],
        skew: Callable[[], float],
    ) -> None:
        self._kernel = kernel
        self.name = name
        self.alive = True
        self._died = died
        self._skew = skew
        self.client = Client(server, name, self._crash)
        self._queue = WorkQueue[Key](random.Random(kernel.rng.getrandbits(32)))
        backend, metrics = PyTorchJobBackend(), Metrics()
        self._prober = Prober(
            telephone, self.client, lambda: kernel.seconds, self.wake, told_seconds=SETTINGS.progress_seconds
        )
        gatherer = Gatherer(self.client, backend, self._prober, SETTINGS, self.clock, lambda: kernel.seconds)
        controller = Controller(
            self.client, gatherer, backend, self._queue, metrics, Pulse(lambda: kernel.seconds, 300.0)
        )
        loops = [
            controller.resync((), SETTINGS.resync_seconds),
            *(controller.work() for _ in range(SETTINGS.workers)),
        ]
        self._tasks = [kernel.loop.create_task(item) for item in loops]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def clock(self) -> datetime:
        """The wall clock of its machine."""
        return START + timedelta(seconds=self._kernel.loop.time() + self._skew())

    def wake(self, key: Key) -> None:
        """A watch reports something about this run."""
        if self.alive:
            self._queue.add(key)

    def kill(self) -> None:
        """SIGKILL: whatever it was doing ends here."""
        if self.alive:
            self.alive = False
            self._queue.close()
            for task in self._tasks:
                task.cancel()
            self._tasks.append(self._kernel.loop.create_task(self._prober.close()))

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Its loops, to be awaited at the end."""
        return self._tasks

    def _crash(self) -> None:
        self.kill()
        self._died()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self.alive and not task.cancelled():
            self._kernel.violate("no loop of the operator ends", repr(task.exception()))
