"""What the demo says while it prepares: one line for each step, with the time it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from demo.view import duration


class Steps:
    """Says each step when it is done, and in a terminal also while it goes on."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str = "") -> None:
        """One line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say `what` around the work of the block."""
        start = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(what):
                yield
        else:
            yield
        self.line(f"✓ {what}  ({duration(time.monotonic() - start)})")
