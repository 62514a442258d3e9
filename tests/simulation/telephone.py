"""Signs of life: over HTTP from a training pod's address, and from every pod's log through the API server."""

from __future__ import annotations

import asyncio
from typing import Any

from mochi_api.heartbeat import Heartbeat
from tests.simulation.kernel import START, Kernel
from tests.simulation.nodes import Nodes, Runtime
from tests.simulation.trainer import Job, Rank

LINE_SECONDS = 15.0


class Telephone:
    """What can be heard of the programs, and how."""

    def __init__(self, kernel: Kernel, nodes: Nodes) -> None:
        self._kernel = kernel
        self._nodes = nodes
        self.cut = False
        """True while no address answers: NetworkPolicy, strict mTLS."""
        self.noise = 0.0
        """Share of questions without an answer."""

    def unix_seconds(self) -> float:
        """The clock of the pods' machines."""
        return START.timestamp() + self._kernel.seconds

    async def ask(self, address: str) -> Heartbeat | None:
        """The answer over HTTP, or None after two seconds."""
        found = None if self.cut else self._nodes.at(address)
        if found is None or (self.noise and self._kernel.chance(self.noise)):
            await asyncio.sleep(2.0)
            return None
        await asyncio.sleep(0.01)
        return self._sign(found)

    def log(self, namespace: str, pod: str, container: str, since_seconds: int) -> str | None:
        """Lines of the last so many seconds; the last one as it was when it was written."""
        found = self._nodes.named(namespace, pod)
        if found is None or found.gone or not found.node.reachable:
            return None
        sign = self._sign(found)
        return "" if sign is None else f"loading\n{sign.to_line()}\n"

    def _sign(self, runtime: Runtime) -> Heartbeat | None:
        program = runtime.program
        if not runtime.alive or not isinstance(program, Job):
            return None
        extra = _training(program, self._kernel.seconds) if isinstance(program, Rank) else {}
        return Heartbeat(
            attempt=program.attempt,
            activity=program.activity,
            quiet_seconds=program.quiet_seconds(),
            done=program.done,
            total=program.total,
            **extra,
        )


def _training(rank: Rank, now: float) -> dict[str, Any]:
    gang, work = rank.gang, rank.work
    found: dict[str, Any] = {}
    if gang.step_at is not None:
        found |= {"step_age_seconds": now - gang.step_at, "loss": 0.5, "step_seconds": 1.6}
    newest = work.newest()
    if newest:
        found |= {"checkpoint_step": newest, "checkpoint_uri": work.checkpoint_uri(newest)}
    return found
