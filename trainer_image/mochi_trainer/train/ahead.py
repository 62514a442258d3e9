"""One thing ahead: the next item is made in a thread while the one before it is used; and how long was waited all the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")
_END = object()
LOOK_SECONDS = 1.0
"""Between two calls of `waiting`."""


def ahead(items: Iterator[T], waiting: Callable[[], object] = lambda: None) -> Iterator[T]:
    """The items in their order, never more than one before it is asked for; what making one raises is raised in its turn.

    `waiting` is called now and then while one is waited for; what it raises ends the waiting. Otherwise closing it waits for
    the one that is being made.
    """
    pool, given_up = ThreadPoolExecutor(1, "ahead"), True
    try:
        following = pool.submit(next, items, _END)
        while (item := _awaited(following, waiting)) is not _END:
            following, given_up = pool.submit(next, items, _END), False
            yield item  # type: ignore[misc]  # _END has ended the loop
            given_up = True
        given_up = False
    finally:
        pool.shutdown(wait=not given_up, cancel_futures=True)


def _awaited(following: Future[object], waiting: Callable[[], object]) -> object:
    while True:
        try:
            return following.result(timeout=LOOK_SECONDS)
        except TimeoutError:
            if following.done():  # it is what making the item raised, or it has just come
                return following.result()
            waiting()


def together(items: Iterator[T], agreed: Callable[[bool], bool]) -> Iterator[T]:
    """The items, each given out only when all ranks have theirs: `agreed` is called with whether this one does, and says so.

    All ranks call it alike, in turn: a rank that still waits for its item calls it with False meanwhile (`ahead`). So none of
    them is in the midst of a step while another one waits, and all can end together. What `agreed` raises is raised.
    """
    for item in items:
        while not agreed(True):
            pass
        yield item


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
