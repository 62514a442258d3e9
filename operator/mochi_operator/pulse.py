"""Signs of life of the loops, for `/healthz`."""

from __future__ import annotations

from collections.abc import Callable


class Pulse:
    """Ages of the last turn of the resync loop, of the last list that worked, and of the last watch event.

    Only the loop itself decides on health: it turns even while the API server is away, and a restart would not bring
    that back. Neither would it make a quiet cluster report events.
    """

    def __init__(self, clock: Callable[[], float], longest_seconds: float) -> None:
        self._clock = clock
        self._longest = longest_seconds
        self._turned = clock()
        self._listed: float | None = None
        self._watched: float | None = None

    def turned(self, *, listed: bool) -> None:
        """The resync loop came round; `listed` when the API server answered."""
        self._turned = self._clock()
        if listed:
            self._listed = self._turned

    def watched(self) -> None:
        """A watch reported something."""
        self._watched = self._clock()

    def report(self) -> dict[str, bool | float | None]:
        """Ages in seconds, None for never, and whether the loop is alive."""
        now = self._clock()
        age = now - self._turned
        return {
            "healthy": age <= self._longest,
            "resyncLoopSeconds": round(age, 1),
            "lastListSeconds": None if self._listed is None else round(now - self._listed, 1),
            "lastWatchEventSeconds": None if self._watched is None else round(now - self._watched, 1),
        }
