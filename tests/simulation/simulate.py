"""One seed from its beginning to its end, and what became of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from tests.simulation.kernel import Kernel
from tests.simulation.loop import VirtualLoop
from tests.simulation.scenario import prepare
from tests.simulation.world import World


class Defects(logging.Handler):
    """A defect that the controller logs and lives on with is a violation all the same."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(logging.ERROR)
        self._kernel = kernel

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        error = record.exc_info[1] if record.exc_info else None
        self._kernel.violate("the operator has no defect", f"{record.getMessage()}: {error!r}{_place(error)}")


def _place(error: BaseException | None) -> str:
    trace = error.__traceback__ if error is not None else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" at {trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"


@dataclass(frozen=True)
class Result:
    """What became of one seed."""

    seed: int
    violations: tuple[str, ...]
    events: int
    calls: int
    digest: str
    trace: str
    seconds: float
    phases: tuple[str, ...]
    previews: int = 0
    """How many samples during the training the statuses name."""


def simulate(
    seed: int, *, kind: bool = False, shards: bool = True, previews: bool = True, trace: bool = False
) -> Result:
    """The world of this seed, from its beginning to its end; `kind` leaves all faults out, without `shards` all stages have
    one pod, without `previews` no samples are made during the training."""
    loop = VirtualLoop()
    asyncio.set_event_loop(None)
    world = World(seed, loop)
    logger, handler = logging.getLogger("mochi_operator"), Defects(world.kernel)
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    loop.set_exception_handler(lambda _, context: _defect(world, context))
    try:
        prepare(world, kind=kind, shards=shards, previews=previews)
        loop.run_until_complete(world.kernel.over)
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
        _close(world, loop)
    kernel = world.kernel
    return Result(
        seed=seed,
        violations=tuple(kernel.violations),
        events=len(kernel.lines),
        calls=len(world.server.calls),
        digest=kernel.digest(),
        trace=kernel.readable() if trace or kernel.violations else "",
        seconds=kernel.seconds,
        previews=sum(
            len(((run.get("status") or {}).get("previews") or {}).get("made") or ()) for run in world.runs()
        ),
        phases=tuple((run.get("status") or {}).get("phase", "") for run in world.runs()),
    )


def _defect(world: World, context: dict[str, Any]) -> None:
    error = context.get("exception")
    world.kernel.violate(
        "the simulation has no defect", f"{context.get('message')}: {error!r}{_place(error)}"
    )


def _close(world: World, loop: VirtualLoop) -> None:
    tasks = [task for process in world.operators for task in process.tasks]
    for process in world.operators:
        process.kill()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
