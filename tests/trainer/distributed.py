"""Several ranks on one machine for tests: forked, so that torch is imported once, and never waited for without limit."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.process
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from mochi_trainer.parallel.group import TIMEOUT_ENV

_FORK = multiprocessing.get_context("fork")


def run_distributed(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    backend: str = "gloo",
    limit: float = 120.0,
) -> list[Any]:
    """Call `function(*arguments)` in `world_size` processes with the environment of a PyTorchJob; return what each returns.

    Raises AssertionError with the traceback of each rank that failed, or when `limit` seconds are over.
    """
    assert backend == "gloo", f"the CPU has gloo only, got {backend}"
    port = free_port()
    ranks = []
    for rank in range(world_size):
        receiver, sender = _FORK.Pipe(duplex=False)
        process = forked(_child, sender, rank, world_size, port, function, arguments)
        process.start()
        sender.close()
        ranks.append((process, receiver))
    end = time.monotonic() + limit
    try:
        answers = [_answer(receiver, end) for _, receiver in ranks]
    finally:
        for process, _ in ranks:
            process.join(timeout=max(0.1, min(5.0, end - time.monotonic())))
            process.kill()
            process.join()
    failed = [f"rank {rank}: {text}" for rank, (well, text) in enumerate(answers) if not well]
    assert not failed, "\n".join(failed)
    return [value for _, value in answers]


def forked(function: Callable[..., Any], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """A process that begins as this one is and calls `function(*arguments)`; not started yet."""
    return _FORK.Process(target=_apart, args=(function, arguments))


def _apart(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    gc.freeze()  # what the parent has let go of is not ours to end: its threads are not here to be joined
    function(*arguments)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answer(receiver: Connection, end: float) -> tuple[bool, Any]:
    try:
        if receiver.poll(max(0.0, end - time.monotonic())):
            return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        return False, "ended without an answer"
    return False, "did not answer in time"


def _child(
    sender: Connection,
    rank: int,
    world: int,
    port: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        MOCHI_POD_IP="127.0.0.1",
        MOCHI_METRICS_PORT=str(free_port()),
    )
    os.environ.setdefault(TIMEOUT_ENV, "60")
    try:
        sender.send((True, function(*arguments)))
    except BaseException:
        sender.send((False, traceback.format_exc()))
    finally:
        sender.close()
        os._exit(0)
