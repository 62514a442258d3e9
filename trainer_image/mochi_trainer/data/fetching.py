"""Things that are read in threads before they are asked for, and kept in memory while there is room."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

AT_ONCE = 4
"""Threads that read."""
AHEAD = 8
"""Things that are read, or wait to be, before the one that is asked for; a step is much longer than a reading."""


class Fetching(Generic[T]):
    """What `read` gives for each number, of `sizes` bytes; `room` bytes of it stay, whatever came first.

    What is in memory is never thrown out: each epoch takes the clips in a new order, so that one that is there is as likely
    to be wanted next as the one that would take its place. Beyond `room` there are at most `AHEAD` + 1 things.
    """

    def __init__(self, read: Callable[[int], T], sizes: Sequence[int], *, room: int) -> None:
        self._read, self._sizes, self._room = read, sizes, room
        self._kept: dict[int, Future[T]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="clips")

    def one(self, number: int) -> T:
        """The thing of one number; raises what reading it raises."""
        return self._asked(number).result()

    def in_order(self, numbers: Iterable[int]) -> Iterator[T]:
        """The things of `numbers`, while the coming ones are read; what reading one raises is raised in its turn."""
        coming: deque[Future[T]] = deque()
        for number in numbers:
            coming.append(self._asked(number))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()

    def close(self) -> None:
        """Read nothing more; what is being read is not waited for, since the store may hang."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _asked(self, number: int) -> Future[T]:
        with self._lock:
            if number in self._kept:
                return self._kept[number]
            asked = self._pool.submit(self._fetched, number)
            if self._sizes[number] <= self._room:
                self._room -= self._sizes[number]
                self._kept[number] = asked
            return asked

    def _fetched(self, number: int) -> T:
        try:
            return self._read(number)
        except BaseException:
            self._forget(number)
            raise

    def _forget(self, number: int) -> None:
        """What could not be read is read again when it is asked for again."""
        with self._lock:
            if self._kept.pop(number, None) is not None:
                self._room += self._sizes[number]
