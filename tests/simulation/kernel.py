"""What every part of the simulation shares: the loop, one source of chance, the trace, and the list of violations."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from mochi_operator.timestamps import render
from tests.simulation.loop import VirtualLoop

START = datetime(2026, 1, 1, tzinfo=UTC)


class Kernel:
    """One simulated world's time, chance and memory."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.rng = random.Random(seed)
        self.lines: list[tuple[float, str, str]] = []
        self.violations: list[str] = []
        self.over: asyncio.Future[None] = loop.create_future()
        self.calm = False
        """True once faults have stopped."""

    @property
    def seconds(self) -> float:
        """Since the simulation began."""
        return self.loop.time()

    @property
    def now(self) -> datetime:
        """The clock of the API server, the controllers and the nodes."""
        return START + timedelta(seconds=self.loop.time())

    def stamp(self) -> str:
        """That clock, as the API server writes it."""
        return render(self.now)

    def later(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> None:
        """Have something done after so long."""
        self.loop.call_later(seconds, function, *arguments)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def between(self, low: float, high: float) -> float:
        """A number in between, evenly."""
        return low + (high - low) * self.rng.random()

    def note(self, actor: str, text: str) -> None:
        """One event: a call of the operator, or something the world does."""
        self.lines.append((self.loop.time(), actor, text))

    def violate(self, law: str, text: str) -> None:
        """A law is broken: the run of this seed ends here."""
        self.violations.append(f"{law}: {text}")
        self.note("LAW", self.violations[-1])
        self.end()

    def end(self) -> None:
        """Stop the simulation."""
        if not self.over.done():
            self.over.set_result(None)

    def digest(self) -> str:
        """One number for the whole trace."""
        summary = hashlib.sha256()
        for seconds, actor, text in self.lines:
            summary.update(f"{seconds:.6f} {actor} {text}\n".encode())
        return summary.hexdigest()

    def readable(self, last: int | None = None) -> str:
        """The trace, or its last lines, for people."""
        lines = self.lines if last is None else self.lines[-last:]
        return "\n".join(f"{seconds:9.2f}  {actor:<10} {text}" for seconds, actor, text in lines)
