"""Which process of how many this is, and where the first one is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mochi_trainer.errors import InvalidInputError


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


def ranks_of(environment: Mapping[str, str], *, replicas: int) -> Ranks:
    """The place that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT give this process, as a PyTorchJob sets them.

    One replica needs none of them. Raises InvalidInputError when they are absent, no numbers, or do not fit `replicas`.
    """
    if replicas == 1:
        return Ranks()
    world = _number(environment, "WORLD_SIZE")
    if world != replicas:
        raise InvalidInputError(
            f"WORLD_SIZE must be world.replicas = {replicas} of the run file, got {world}"
        )
    rank = _number(environment, "RANK")
    if not 0 <= rank < world:
        raise InvalidInputError(f"RANK must be between 0 and WORLD_SIZE - 1 = {world - 1}, got {rank}")
    address = environment.get("MASTER_ADDR", "")
    if not address:
        raise InvalidInputError(
            f"MASTER_ADDR must name the host of rank 0 when there are {world} ranks, got ''"
        )
    return Ranks(rank=rank, world=world, address=address, port=_number(environment, "MASTER_PORT"))


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise InvalidInputError(f"{name} must be a number when there are several ranks, got {text!r}")
    return int(text)
