"""Work ahead in threads, with a bound on how much is under way: download, decode, encode and upload overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, at_once: int, waiting: int = 0
) -> Iterator[Result]:
    """`function` of each item, in their order, `at_once` in threads; at most `waiting` more results lie ready.

    The first exception ends it; what has not begun then never does, and what has is not waited for: a process that is
    asked to stop has seconds.
    """
    pool = ThreadPoolExecutor(at_once, "ahead")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            while pending and (len(pending) >= at_once + waiting or pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
