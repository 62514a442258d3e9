"""Containers as processes: starts a shim for each, passes signals to it, hands its events on.

Every shim is started by one long-lived thread, because a parent-death signal is sent when the *thread* that
started a process ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.agent.shim import Request

START_TIMEOUT = 30.0
"""Seconds a container may take from the request to its `execve`."""
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
LOST_CODE = 137


class ClosedError(Exception):
    """The agent is stopping: no container is started any more."""


class StartError(Exception):
    """The container's process could not be started; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a container ended. `lost`: its shim died without a report."""

    code: int
    signal: int
    out_of_memory: bool
    started_at: float
    finished_at: float
    lost: bool = False


def read_exit(path: Path) -> Exit | None:
    """The exit a shim wrote to disk; None when there is none."""
    try:
        event = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return exit_of(event) if event.get("event") == "exited" else None


def exit_of(event: dict[str, Any]) -> Exit:
    """The exit told by an `exited` event."""
    return Exit(
        code=event["code"],
        signal=event["signal"],
        out_of_memory=event["out_of_memory"],
        started_at=event["started_at"],
        finished_at=event["finished_at"],
    )


class Process:
    """A started container."""

    def __init__(self, shim: subprocess.Popen[str], started_at: float) -> None:
        self._shim = shim
        self.started_at = started_at
        self.pid = shim.pid

    def terminate(self) -> None:
        """SIGTERM to the container's pid 1."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the container's pid 1, and with it everything the container started."""
        self._signal(signal.SIGUSR1)

    def kill_out_of_memory(self) -> None:
        """End the container as the kernel's out-of-memory killer would."""
        self._signal(signal.SIGUSR2)

    def _signal(self, signum: signal.Signals) -> None:
        if self._shim.poll() is None:
            self._shim.send_signal(signum)


class Launcher:
    """Starts shims. `close` ends all of them."""

    def __init__(self) -> None:
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="start")
        self._shims: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def start(self, request: Request, on_exit: Callable[[Exit], None]) -> Process:
        """Start a container and wait until its program runs.

        `on_exit` is called once, from another thread. Raises `StartError` or `ClosedError`.
        """
        try:
            shim = self._starter.submit(self._spawn, request).result(START_TIMEOUT)
        except RuntimeError as error:  # the thread has ended
            raise ClosedError from error
        guard = threading.Timer(START_TIMEOUT, shim.kill)
        guard.start()
        event = _next_event(shim)
        guard.cancel()
        if event.get("event") != "started":
            self._forget(shim)
            raise StartError(
                event.get("message", f"no report from the container's parent within {START_TIMEOUT:.0f} s")
            )
        process = Process(shim, event["at"])
        threading.Thread(target=self._follow, args=(shim, process, on_exit), daemon=True).start()
        return process

    def _spawn(self, request: Request) -> subprocess.Popen[str]:
        if self._closed:
            raise ClosedError
        shim = subprocess.Popen(
            [sys.executable, "-S", "-m", "devcluster.agent.shim"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": _PACKAGE_ROOT, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            text=True,
            start_new_session=True,
        )
        with self._lock:
            self._shims.add(shim)
        if shim.stdin is not None:
            shim.stdin.write(json.dumps({**request, "parent": os.getpid()}))
            shim.stdin.close()
        return shim

    def _follow(self, shim: subprocess.Popen[str], process: Process, on_exit: Callable[[Exit], None]) -> None:
        event = _next_event(shim)
        self._forget(shim)
        if event.get("event") == "exited":
            on_exit(exit_of(event))
            return
        finished_at = time.time()
        on_exit(
            Exit(
                code=LOST_CODE,
                signal=signal.SIGKILL,
                out_of_memory=False,
                started_at=process.started_at,
                finished_at=finished_at,
                lost=True,
            )
        )

    def _forget(self, shim: subprocess.Popen[str]) -> None:
        shim.wait()
        if shim.stdout is not None:
            shim.stdout.close()
        with self._lock:
            self._shims.discard(shim)

    def close(self) -> None:
        """Kill every container, and start none any more."""
        self._closed = True
        with self._lock:
            shims = list(self._shims)
        for shim in shims:
            shim.send_signal(signal.SIGUSR1)
        for shim in shims:
            try:
                shim.wait(2)
            except subprocess.TimeoutExpired:
                shim.kill()
                shim.wait()
        self._starter.shutdown()


def _next_event(shim: subprocess.Popen[str]) -> dict[str, Any]:
    line = shim.stdout.readline() if shim.stdout is not None else ""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
