"""What the demo says while it prepares: one line for each step, with the time it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from demo.view import duration


class Steps:
    """Says each step when it is done, and in a terminal also while it goes on."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str = "") -> None:
        """One line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Say `what` around the work of the block, and what the block says of its progress: in place, or as lines."""
        start = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(escape(what)) as status:
                yield lambda news: status.update(escape(f"{what}: {news}"))
        else:
            yield lambda news: self.line(f"  {news}")
        self.line(f"✓ {what}  ({duration(time.monotonic() - start)})")
