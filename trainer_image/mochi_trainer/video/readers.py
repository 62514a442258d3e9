"""Worker processes that read clips, so that a hostile file costs itself only."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.reader_environment import reader_environment
from mochi_trainer.video.forking import NURSERY, Forked
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.worker import Answer, Call

T = TypeVar("T")
START_SECONDS = 300.0
"""Time in which a worker has to have started; importing is slow on a busy machine."""

STOP_SECONDS = 5.0
CODE = "import sys; from mochi_trainer.video.worker import serve; serve(*map(int, sys.argv[1:]))"


class AbandonedError(Exception):
    """A call was given up with all others: no clip's fault."""


class Readers:
    """`count` worker processes at most; calls beyond that wait for one. To be used from any thread.

    A worker that dies or takes too long is replaced by a new one. Workers end with this process, however it ends.
    """

    def __init__(self, count: int, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(count):
            self._slots.put(None)
        self.count = count
        self._alive: set[_Worker] = set()
        self._abandoned = False
        # Linux ends a child with the thread that started it, so one thread that stays starts all of them.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="readers")

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What `function`, of a module that a worker can import, gives for `arguments`; both are pickled.

        Raises ClipError when the function does, when the worker dies (Corrupt, or TooLarge where it took too much
        memory) and when it takes too long (Timeout); AbandonedError when all calls are given up. Other exceptions of the
        function pass as they are.
        """
        worker = self._slots.get()
        try:
            call = Call(function, arguments, self._limits.cpu_seconds)
            if worker is None or not worker.took(call):
                worker = self._started(worker)
                worker.took(call)
            answer = worker.answer(self._limits)
        except BaseException as error:
            if worker is not None:
                self._alive.discard(worker)
                worker.kill()
            worker = None
            if self._abandoned and isinstance(error, ClipError):
                raise AbandonedError("the work was given up") from error
            raise
        finally:
            self._slots.put(worker)
        value: T = _value(answer)
        return value

    def _started(self, dead: _Worker | None) -> _Worker:
        if dead is not None:
            self._alive.discard(dead)
        worker = self._starter.submit(_Worker, self._limits).result()
        self._alive.add(worker)
        if self._abandoned:  # while it started
            worker.interrupt()
        try:
            worker.wait_until_ready()  # here and not in the starter's thread, so that several come up beside each other
        except RuntimeError:
            self._alive.discard(worker)
            raise
        return worker

    def abandon(self) -> None:
        """End all workers at once, and those that still come; calls that are running fail."""
        self._abandoned = True
        for worker in tuple(self._alive):
            worker.interrupt()

    def close(self) -> None:
        """End all workers; calls that are running are waited for."""
        for _ in range(self.count):
            worker = self._slots.get()
            if worker is not None:
                worker.stop()
        self._starter.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abandon()
        self.close()


def _value(answer: Answer) -> Any:
    if answer.failure is not None:
        raise ClipError(*answer.failure)
    if answer.error is not None:
        answer.error.add_note(f"in a reader:\n{answer.trace}")
        raise answer.error
    return answer.value


class _Worker:
    """One process and the socket to it."""

    def __init__(self, limits: Limits) -> None:
        process, ours = NURSERY.taken() or _begun()
        self._process: Forked | subprocess.Popen[bytes] = process
        self._connection = Connection(ours.detach())
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it has ended, which is found when it is waited for
            self._connection.send(limits.memory_bytes)

    def wait_until_ready(self) -> None:
        """Wait until it has imported what it needs; raise RuntimeError when it does not come up, which ends it."""
        try:
            if not self._connection.poll(START_SECONDS):
                raise TimeoutError(f"a reader did not start in {START_SECONDS:.0f} s")
            self._connection.recv()
        except (EOFError, OSError) as error:
            self.kill()
            raise RuntimeError(f"a reader could not start (exit {self._process.returncode})") from error

    def took(self, call: Call) -> bool:
        """Whether it is alive and has been given the call."""
        try:
            self._connection.send(call)
        except (BrokenPipeError, ConnectionResetError):
            self.kill()
            return False
        return True

    def answer(self, limits: Limits) -> Answer:
        """What it says to the call that it took; raise ClipError when it dies over it or does not answer in time."""
        began = time.monotonic()
        try:
            if not self._connection.poll(limits.wall_seconds):
                raise ClipError(f"took longer than {limits.wall_seconds:g} s", ClipReason.TIMEOUT)
            answer: Answer = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise _death(self._ended(), limits, time.monotonic() - began) from error
        return answer

    def _ended(self) -> int:
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return 0

    def stop(self) -> None:
        self._connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def interrupt(self) -> None:
        """End it while another thread waits for its answer."""
        self._process.kill()

    def kill(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


def _begun() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A reader that is a Python of its own, and the way to it."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE, str(theirs.fileno()), str(os.getpid())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=reader_environment(),
        )
    return process, ours


def _death(code: int, limits: Limits, seconds: float) -> ClipError:
    """Why a worker died, as well as its exit code tells."""
    if code == -signal.SIGXCPU:
        return ClipError(f"took more than {limits.cpu_seconds} s of processor time", ClipReason.TIMEOUT)
    if code == -signal.SIGKILL:
        return ClipError(
            f"its reader was killed after {seconds:.0f} s, most likely for want of memory",
            ClipReason.TOO_LARGE,
        )
    said = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit {code}"
    return ClipError(f"the decoder crashed on it ({said})", ClipReason.CORRUPT)
