"""Which process of how many this is, where the first one is found, and which places the processes of a pod take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mochi_api.identity import POD_IP_ENV
from mochi_api.runfile import World
from mochi_trainer.errors import InvalidInputError

LOCAL_WORLD = "LOCAL_WORLD_SIZE"
"""Number of processes of this pod, as who starts several of them, torchrun too, tells each; a pod itself has it not."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process's place among all that train one model."""

    rank: int = 0
    """Number of this process, from 0."""

    world: int = 1
    """Number of processes."""

    address: str = ""
    """Host name of rank 0; empty when there is only one process."""

    port: int = 0
    """Port on which rank 0 gathers the others."""

    local: int = 0
    """Number of this process in its pod, from 0, and so of its GPU."""


def ranks_of(environment: Mapping[str, str], *, processes: int) -> Ranks:
    """The place that RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and LOCAL_RANK give one of `processes`.

    One alone needs none of them. Raises InvalidInputError when they are absent, no numbers, or do not fit `processes`.
    """
    if processes == 1:
        return Ranks()
    world = _number(environment, "WORLD_SIZE")
    if world != processes:
        raise InvalidInputError(
            f"WORLD_SIZE must be {processes}, as the world of the run file says, got {world}"
        )
    rank = _number(environment, "RANK")
    if not 0 <= rank < world:
        raise InvalidInputError(f"RANK must be between 0 and WORLD_SIZE - 1 = {world - 1}, got {rank}")
    address = environment.get("MASTER_ADDR", "")
    if not address:
        raise InvalidInputError(
            f"MASTER_ADDR must name the host of rank 0 when there are {world} ranks, got ''"
        )
    return Ranks(
        rank=rank,
        world=world,
        address=address,
        port=_number(environment, "MASTER_PORT"),
        local=_number(environment, "LOCAL_RANK") if environment.get(LOCAL_WORLD) else 0,
    )


def places(
    environment: Mapping[str, str], world: World, *, free_port: Callable[[], int]
) -> list[dict[str, str]]:
    """The variables of each process of this pod, in the order of its GPUs, as torchrun sets them.

    Of several pods RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in `environment` are those of the pods, as a PyTorchJob
    sets them. The processes of a single one meet at its own address; at `free_port` where no port is given. Raises
    InvalidInputError as `ranks_of`.
    """
    pod, count = ranks_of(environment, processes=world.replicas), world.gpus_per_pod
    if world.replicas == 1:
        port = environment.get("MASTER_PORT", "")
        pod = Ranks(
            address=environment.get(POD_IP_ENV) or LOOPBACK,
            port=int(port) if port.isdecimal() else free_port(),
        )
    return [
        {
            "RANK": str(pod.rank * count + local),
            "WORLD_SIZE": str(world.processes),
            "LOCAL_RANK": str(local),
            LOCAL_WORLD: str(count),
            "GROUP_RANK": str(pod.rank),
            "MASTER_ADDR": pod.address,
            "MASTER_PORT": str(pod.port),
        }
        for local in range(count)
    ]


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise InvalidInputError(f"{name} must be a number when there are several ranks, got {text!r}")
    return int(text)
