"""For how long a store that answers has refused to store: what no outage is over by itself, somebody has to end."""

from __future__ import annotations

import time
from collections.abc import Callable

from mochi_trainer.errors import REFUSALS, TrainerError


class Refusals:
    """Since when nothing but refusals came. A thread tells of each try that failed, another one asks."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def failed(self, error: TrainerError) -> None:
        """A try has failed; one that was not refused begins the count anew, since nobody knows what the store would say."""
        if not isinstance(error, REFUSALS):
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    def over(self) -> None:
        """Everything that was to be stored is."""
        self._since = None

    @property
    def seconds(self) -> float:
        """Since the first of the refusals; 0 without one."""
        since = self._since
        return 0.0 if since is None else self._clock() - since
