"""One item is made ahead of time, never two, and what goes wrong is told in its turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mochi_trainer.train import ahead as ahead_module
from mochi_trainer.train.ahead import Awaited, ahead, together


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


class EnoughError(Exception):
    """Whoever waits has had enough."""


def test_what_is_not_waited_for_any_more_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "LOOK_SECONDS", 0.01)
    comes = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        comes.wait(60)
        yield 2

    def waiting() -> None:
        raise EnoughError

    taken = ahead(items(), waiting)
    assert next(taken) == 1
    with pytest.raises(EnoughError):
        next(taken)
    assert not comes.is_set()
    comes.set()


def test_a_timeout_of_an_item_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "LOOK_SECONDS", 0.01)

    def items() -> Iterator[int]:
        time.sleep(0.1)
        raise TimeoutError("its own")
        yield 1

    with pytest.raises(TimeoutError, match="its own"):
        next(ahead(items()))


def test_nobody_goes_on_before_all_have_their_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank that waits says no as long; the one that has its item asks until all have."""
    monkeypatch.setattr(ahead_module, "LOOK_SECONDS", 0.01)
    comes, said = threading.Event(), []

    def items() -> Iterator[int]:
        comes.wait(60)
        yield 1

    def agreed(ready: bool) -> bool:
        said.append(ready)
        if len(said) == 3:
            comes.set()
        return ready and said.count(True) == 2  # the first time the other rank has none yet

    assert list(together(ahead(items(), lambda: agreed(False)), agreed)) == [1]
    assert said[:3] == [False] * 3
    assert [ready for ready in said if ready] == [True, True]
