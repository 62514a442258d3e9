"""Everything that a cluster does to those who live in it; each fault begins and ends before the calm."""

from __future__ import annotations

from tests.simulation.world import World


def unleash(world: World, names: list[str], calm: float) -> None:
    """Choose this seed's faults and set their times."""
