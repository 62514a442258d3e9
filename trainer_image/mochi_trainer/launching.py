"""A training pod with several GPUs: one process for each, and which of their ends is the pod's.

Each process is the command train with a place of its own, and leaves its outcome in a file of its own. What the pod leaves
is what its first process leaves, or, when any fails, what the one does that failed first.
"""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from mochi_api.outcomes import DISRUPTIONS, ROWS, Outcome, Reason
from mochi_api.runfile import World
from mochi_trainer import cpus
from mochi_trainer.arguments import TERMINATION_LOG_ENV
from mochi_trainer.parallel.launch import Ended, run
from mochi_trainer.parallel.ranks import LOOPBACK, places
from mochi_trainer.parallel.stop import Stop

_EFFECTS = (Reason.COLLECTIVE_TIMEOUT, Reason.SUPERSEDED, *DISRUPTIONS)
"""Ends that often follow from the end of another process."""
_FATAL = 128
"""A process that a signal ended has this and the signal's number as its exit code for a shell, and for a container."""


def launched(
    command: Sequence[str], world: World, environment: Mapping[str, str], stop: Stop
) -> tuple[Outcome, int]:
    """Run `command` in a process for each GPU of this pod of `world`; return the pod's outcome and exit code.

    Raises InvalidInputError when `environment` does not place this pod among the others.
    """
    with tempfile.TemporaryDirectory(prefix="mochi-outcomes-") as folder:
        files = [Path(folder) / f"outcome-{local}.json" for local in range(world.gpus_per_pod)]
        threads = {cpus.THREADS_ENV: environment.get(cpus.THREADS_ENV) or str(cpus.share(world.gpus_per_pod))}
        placed = places(environment, world, free_port=_free_port)
        variables = [
            {**threads, **place, TERMINATION_LOG_ENV: str(file)}
            for place, file in zip(placed, files, strict=True)
        ]
        before = cpus.out_of_memory_kills()
        ends = run(command, variables, stop)
        if not ends:
            return _stopped(0)
        outcomes = [_read(file) for file in files]
        killed_by_kernel = cpus.out_of_memory_kills() > before
        telling = first(ends, outcomes)
        rank = int(placed[telling.local]["RANK"])
        told = outcomes[telling.local]
        if told is not None and (told.reason is not Reason.COMPLETED or telling.code == 0):
            return told, ROWS[told.reason].exit_code or telling.code
        return _untold(telling, rank, stopped=stop.requested, by_kernel=killed_by_kernel)


def first(ends: Sequence[Ended], outcomes: Sequence[Outcome | None]) -> Ended:
    """The end that is the pod's: of the failures the one that brought the others about, else that of the first process.

    A failure of its own counts before one that may be the effect of another; then the process that ended unasked.
    """

    def order(end: Ended) -> tuple[bool, bool, int]:
        outcome = outcomes[end.local]
        effect = end.told if outcome is None else outcome.reason in _EFFECTS
        return effect, end.told, end.local

    return min((end for end in ends if end.code), key=order, default=ends[0])


def _untold(end: Ended, rank: int, *, stopped: bool, by_kernel: bool) -> tuple[Outcome, int]:
    """The outcome of a process that left none."""
    if stopped and end.code == -signal.SIGTERM:  # before it had a handler
        return _stopped(rank)
    if end.code == -signal.SIGKILL and by_kernel:
        message = f"rank {rank} was killed by the kernel: the pod used more than its memory limit"
        return _failed(Reason.OUT_OF_MEMORY, message, rank, 0)
    if end.code >= 0:
        message = f"rank {rank} ended with exit code {end.code} and left no outcome"
        return _failed(Reason.UNKNOWN, message, rank, end.code)
    message = f"rank {rank} was killed by {_name(-end.code)} and left no outcome"
    return _failed(Reason.UNKNOWN, message, rank, _FATAL - end.code)


def _stopped(rank: int) -> tuple[Outcome, int]:
    return _failed(Reason.PREEMPTED, "stopped by SIGTERM before the first step", rank, 0)


def _failed(reason: Reason, message: str, rank: int, code: int) -> tuple[Outcome, int]:
    """With the exit code of the reason, or `code` where it has none."""
    return Outcome(reason=reason, message=message, rank=rank), ROWS[reason].exit_code or code


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read(file: Path) -> Outcome | None:
    try:
        return Outcome.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def command() -> list[str]:
    """This very command."""
    return [sys.executable, "-m", "mochi_trainer", *sys.argv[1:]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
