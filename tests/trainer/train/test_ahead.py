"""One item is made ahead of time, never two, and what goes wrong is told in its turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mochi_trainer.train.ahead import Awaited, ahead


def test_the_items_come_in_their_order() -> None:
    assert list(ahead(iter(range(5)))) == list(range(5))


def test_the_next_one_is_made_while_one_is_used_and_no_other() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    coming = ahead(items())
    assert next(coming) == 0
    assert made[1].wait(10)
    assert not made[2].wait(0.2)
    assert next(coming) == 1
    assert made[2].wait(10)
    coming.close()  # type: ignore[attr-defined]
    assert not made[3].is_set()


def test_an_error_waits_for_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the clip is gone")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(OSError, match="the clip is gone"):
        next(coming)


def test_the_wait_is_that_for_the_items_and_not_for_their_use() -> None:
    def items() -> Iterator[int]:
        for number in range(2):
            time.sleep(0.2)
            yield number

    began = time.monotonic()
    awaited = Awaited(items())
    next(awaited)
    time.sleep(0.3)
    next(awaited)
    assert 0.4 <= awaited.spent() <= time.monotonic() - began - 0.3
    assert awaited.spent() == 0
