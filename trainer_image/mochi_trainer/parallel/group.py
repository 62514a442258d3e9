"""The process group: how ranks find each other, and the few things they agree on, each with a time limit.

Control collectives run over gloo on the CPU also when the model's run over NCCL. When another rank dies or stays away,
they raise torch's RuntimeError, which `mochi_trainer.failures` knows.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore, Store, TCPStore  # type: ignore[attr-defined]  # exported at run time

from mochi_api.identity import POD_IP_ENV
from mochi_api.runfile import RUN_FILE_PATH
from mochi_trainer import environment
from mochi_trainer.errors import CollectiveTimeoutError
from mochi_trainer.movement import Movement
from mochi_trainer.parallel.ranks import Ranks

log = logging.getLogger(__name__)

TIMEOUT_ENV = "MOCHI_COLLECTIVE_TIMEOUT_SECONDS"
TIMEOUT_SECONDS = 600.0
"""Longest wait for another rank in every collective; by hand also for all of them to come."""
PEERS_SECONDS = 86400.0
"""Longest wait for the others to come, where an operator watches: their pods may have to wait for a node, and it is the
operator that knows for how long they may."""

_ARRIVED = "mochi/arrived"
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Group:
    """All ranks of one training; every method but `first` is to be called by all of them at the same place."""

    rank: int = 0
    world: int = 1
    limit: float = TIMEOUT_SECONDS
    """Seconds that a rank waits for another in each collective."""
    context: int = 1
    """Ranks, one after the other, that share the tokens of each clip."""

    @property
    def data_rank(self) -> int:
        """Number of the ranks that this one shares its clips with, from 0."""
        return self.rank // self.context

    @property
    def data_world(self) -> int:
        """How many clips are trained on at the same time."""
        return self.world // self.context

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, in double precision."""
        found: list[float] = self.summed(torch.tensor(values, dtype=torch.float64)).tolist()
        return found

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sums over all ranks of a tensor on the CPU."""
        sums = values.clone()
        if self.world > 1:
            dist.all_reduce(sums)
        return sums

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        return self.total([float(flag)])[0] > 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.total([0.0])

    def gathered(self, value: Any) -> list[Any]:
        """The values of all ranks in the order of their ranks, on every rank. Plain data only: it is pickled."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank. Plain data only: it is pickled."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def among(self, sets: Sequence[Sequence[int]]) -> dist.ProcessGroup:
        """Of `sets`, which together have every rank once, the one with this rank, as a process group with the same limit."""
        own, _ = dist.new_subgroups_by_enumeration(
            [list(each) for each in sets], timeout=timedelta(seconds=self.limit)
        )
        assert isinstance(own, dist.ProcessGroup), f"rank {self.rank} must be in one of {sets}"
        return own


def time_limit() -> float:
    """Seconds that a rank waits for another: the environment's, or the default."""
    return environment.seconds(TIMEOUT_ENV, TIMEOUT_SECONDS)


def peers_limit(run_file: Path = Path(RUN_FILE_PATH)) -> float:
    """Seconds that a rank waits for the others to come: long in a pod, which is known by the operator's run file."""
    return PEERS_SECONDS if run_file.exists() else time_limit()


@contextmanager
def joined(
    ranks: Ranks,
    device: torch.device,
    *,
    limit: float,
    peers: float | None = None,
    check: Callable[[], None] = lambda: None,
    movement: Movement | None = None,
    context: int = 1,
) -> Iterator[Group]:
    """The process group of all `ranks` for the length of the block; one rank makes a group of its own, without network.

    The others are waited for `peers` seconds (`limit` when None), and later, in each collective, `limit`. `check` is called
    while waiting and may raise; `movement` is told of each rank that comes; `context` is the group's. Raises
    CollectiveTimeoutError when the others do not come in time.
    """
    waiting = _Waiting(limit if peers is None else peers, check, movement or Movement())
    store = HashStore() if ranks.world == 1 else _rendezvous(ranks, limit, waiting)
    _choose_interface(ranks)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=timedelta(seconds=limit)
    )
    log.info("rank %d of %d joined, backend %s", ranks.rank, ranks.world, backend)
    try:
        yield Group(ranks.rank, ranks.world, limit, context)
    except BaseException:
        _leave(clean=False)
        raise
    _leave(clean=True)


def _leave(*, clean: bool) -> None:
    """Destroy the group; after a failure of NCCL that would wait for ranks that are gone, so the process's end does it."""
    if clean or not torch.cuda.is_available():
        dist.destroy_process_group()


def _rendezvous(ranks: Ranks, limit: float, waiting: _Waiting) -> Store:
    """A store on rank 0 that all ranks have reached."""
    own = os.environ.get(POD_IP_ENV, "")
    if ranks.rank == 0:
        store = TCPStore(
            own or ranks.address,
            ranks.port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=limit),
            master_listen_fd=_listening(own, ranks.port),
        )
    else:
        _reachable(ranks, waiting)
        store = TCPStore(ranks.address, ranks.port, is_master=False, timeout=timedelta(seconds=limit))
    arrived = store.add(_ARRIVED, 1)
    while arrived < ranks.world:
        waiting.came(arrived, ranks.world)
        waiting.pause(f"{arrived} of {ranks.world} ranks have come to {ranks.address}:{ranks.port}")
        arrived = store.add(_ARRIVED, 0)
    return store


class _Waiting:
    """The wait for the others: bounded, told to the log and to the sign of life, and ended by `check`."""

    def __init__(self, limit: float, check: Callable[[], None], movement: Movement) -> None:
        self._limit, self._check, self._movement = limit, check, movement
        self._end = time.monotonic() + limit
        self._arrived = 0

    def came(self, arrived: int, world: int) -> None:
        """So many ranks are there; only one more is movement."""
        if arrived > self._arrived:
            self._arrived = arrived
            self._movement.doing("waiting for peers")
            log.info("%d of %d ranks have come, waiting for the others", arrived, world)

    def pause(self, state: str) -> None:
        self._check()
        if time.monotonic() > self._end:
            raise CollectiveTimeoutError(f"{state} after {self._limit:g} s")
        time.sleep(_POLL_SECONDS)


def _reachable(ranks: Ranks, waiting: _Waiting) -> None:
    """Wait until rank 0 listens; its name may not resolve before its pod is there."""
    while True:
        try:
            socket.create_connection((ranks.address, ranks.port), timeout=2).close()
            return
        except OSError as error:
            waiting.pause(f"rank 0 at {ranks.address}:{ranks.port} does not answer ({error})")


def _listening(address: str, port: int) -> int:
    """A descriptor that listens on this pod's own address only: pods may share one network."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise CollectiveTimeoutError(
            f"rank 0 cannot listen on {address or 'all addresses'}:{port}: {error}"
        ) from error
    return listener.detach()


def _choose_interface(ranks: Ranks) -> None:
    """Let gloo use the loopback interface when rank 0 is there, unless GLOO_SOCKET_IFNAME chooses.

    Otherwise gloo takes the interface of the host's own name, which in a pod is the pod's address.
    """
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    address = ranks.address or "127.0.0.1"
    try:
        resolved = socket.getaddrinfo(address, None)[0][4][0]
    except OSError:
        return
    if str(resolved).startswith("127.") or resolved == "::1":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
