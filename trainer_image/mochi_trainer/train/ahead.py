"""One thing ahead: the next item is made in a thread while the one before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
