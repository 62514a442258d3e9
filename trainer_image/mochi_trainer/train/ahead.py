"""One thing ahead: the next item is made in a thread while the one before it is used; and how long was waited all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")
_END = object()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items in their order, never more than one before it is asked for; what making one raises is raised in its turn.

    Closing it waits for the one that is being made.
    """
    with ThreadPoolExecutor(1, "ahead") as pool:
        following = pool.submit(next, items, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, items, _END)
            yield item  # type: ignore[misc]  # _END has ended the loop


class Awaited(Generic[T]):
    """The items, and the seconds for which they were waited."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items, self._seconds = items, 0.0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        started = time.monotonic()
        try:
            return next(self._items)
        finally:
            self._seconds += time.monotonic() - started

    def spent(self) -> float:
        """Seconds since this was asked last."""
        found, self._seconds = self._seconds, 0.0
        return found
