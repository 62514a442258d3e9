"""Readers that are forked from the stage when it has imported what they need, and nothing else: they share that memory.

A reader that dies is replaced by a process that begins anew, since by then the stage has threads and credentials.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from typing import NoReturn

from mochi_trainer.video.worker import serve

LOOK_SECONDS = 0.01
"""Between two looks whether a process has ended."""


class Forked:
    """A process that was forked, as a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.returncode: int | None = None
        self._pid = pid
        self._lock = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal; raise TimeoutExpired when it lives on."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while (code := self._ended()) is None:
            if time.monotonic() >= end:
                raise subprocess.TimeoutExpired("a reader", timeout or 0)
            time.sleep(LOOK_SECONDS)
        return code

    def kill(self) -> None:
        """End it, if it lives."""
        with self._lock:  # so that its number is its own still
            if self.returncode is None:
                os.kill(self._pid, signal.SIGKILL)

    def _ended(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode


Ready = tuple[Forked, socket.socket]
"""A reader that waits for its first call, and the way to it."""


class Nursery:
    """The readers that were forked in time."""

    def __init__(self) -> None:
        self._ready: deque[Ready] = deque()

    def fill(self, count: int, *, without: int) -> None:
        """Fork them, in a process of one thread that holds no secret; they do not keep the file `without`."""
        gc.collect()
        gc.freeze()  # to look for garbage writes to each object, and what is written is shared no more
        parent = os.getpid()
        for _ in range(count):
            ours, theirs = socket.socketpair()
            if (pid := os.fork()) == 0:
                for _, other in self._ready:
                    other.close()
                ours.close()
                os.close(without)
                _serve(theirs, parent)
            theirs.close()
            self._ready.append((Forked(pid), ours))

    def taken(self) -> Ready | None:
        """One of them, once each."""
        with suppress(IndexError):
            return self._ready.popleft()
        return None


NURSERY = Nursery()


def _serve(connection: socket.socket, parent: int) -> NoReturn:
    """Be a reader and nothing else: what the stage would do at its end is not done here."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        serve(connection.detach(), parent)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
