"""A process that reads clips for another one: it takes calls from a socket, one at a time, within limits."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.limits import too_much_memory

PR_SET_PDEATHSIG = 1
FIRST_TO_DIE = "900"
"""When memory is short the kernel takes a worker, not the stage (/proc/self/oom_score_adj)."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function of a module and its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    cpu_seconds: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave: a value, the failure of a clip, or another exception."""

    value: Any = None
    failure: tuple[str, ClipReason] | None = None
    error: BaseException | None = None
    trace: str = ""


def serve(descriptor: int, parent: int) -> None:
    """Hear how much memory may be taken, and answer calls until the other end closes; `parent` is the process without
    which this one has no work."""
    _bind(parent)
    with Connection(descriptor) as connection:
        try:
            _limit(connection.recv())
        except (EOFError, ConnectionResetError):
            return
        connection.send(None)  # ready
        while True:
            try:
                call = connection.recv_bytes()
            except (EOFError, ConnectionResetError):
                return
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.send_bytes(_packed(_answer(call)))


def _bind(parent: int) -> None:
    """End with the parent, ignore what a terminal sends to all, and be the one that is killed when memory is short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(FIRST_TO_DIE)
    if os.getppid() != parent:
        sys.exit(0)


def _limit(memory_bytes: int) -> None:
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _answer(packed: bytes) -> Answer:
    try:
        call: Call = pickle.loads(packed)  # noqa: S301  # of the parent
    except Exception as error:
        return Answer(error=RuntimeError(f"a reader cannot import what it is to do: {error}"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + call.cpu_seconds, hard))
    try:
        return Answer(call.function(*call.arguments))
    except ClipError as error:
        return Answer(failure=(str(error), error.reason))
    except MemoryError:
        return Answer(failure=(too_much_memory(), ClipReason.TOO_LARGE))
    except Exception as error:
        return Answer(error=error, trace=traceback.format_exc())


def _packed(answer: Answer) -> bytes:
    try:
        data = pickle.dumps(answer)
        if answer.error is not None:
            pickle.loads(data)  # noqa: S301  # its own
    except Exception as error:
        return pickle.dumps(Answer(error=RuntimeError(f"{answer.error or error}"), trace=answer.trace))
    return data
