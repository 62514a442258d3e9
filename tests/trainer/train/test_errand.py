"""Errands: what is done beside the training is tried again, told, dropped, and never taken for the training's own movement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from mochi_trainer.errors import AccessDeniedError, MissingObjectError, NotAdmittedError, StorageError
from mochi_trainer.movement import PROCESS
from mochi_trainer.train.errand import Errand

LIMIT = 60.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("kind", [StorageError, NotAdmittedError, AccessDeniedError])
def test_a_store_that_is_away_or_refuses_is_asked_until_it_does_not(kind: type[StorageError]) -> None:
    answers = [kind("gone"), kind("still gone"), None]
    told: list[str] = []

    def act(_: Callable[[], None]) -> str:
        if (answer := answers.pop(0)) is not None:
            raise answer
        return "stored"

    errand = Errand(act, name="test", failed=lambda error: told.append(str(error)))
    until(lambda: errand.done)
    assert (errand.found, told) == ("stored", ["gone", "still gone"])


def test_the_problem_is_known_until_something_moves() -> None:
    fails, moves = threading.Event(), threading.Event()

    def act(_: Callable[[], None]) -> None:
        if not fails.is_set():
            fails.set()
            raise StorageError("gone")
        PROCESS.moved()
        moves.wait(LIMIT)

    errand = Errand(act, name="test")
    errand.wait(LIMIT)
    assert str(errand.problem) == "gone"
    until(lambda: errand.problem is None)
    assert errand.moved()
    assert not errand.moved()
    moves.set()
    until(lambda: errand.done)


def test_tries_are_lost_that_fail_after_something_has_moved() -> None:
    tries = [False, True]

    def act(_: Callable[[], None]) -> None:
        if not tries:
            return
        if tries.pop(0):
            PROCESS.moved()
        raise StorageError("busy")

    errand = Errand(act, name="test")
    until(lambda: errand.done)
    assert errand.lost == 1


def test_what_asking_again_does_not_help_against_is_raised_where_it_is_asked_for() -> None:
    def act(_: Callable[[], None]) -> None:
        raise MissingObjectError("no such bucket")

    errand = Errand(act, name="test")
    errand.wait(LIMIT)
    with pytest.raises(MissingObjectError, match="no such bucket"):
        _ = errand.done


def test_one_that_is_dropped_ends_at_its_next_look() -> None:
    begun = threading.Event()

    def act(check: Callable[[], None]) -> None:
        while True:
            begun.set()
            check()
            time.sleep(0.001)

    errand = Errand(act, name="one that looks")
    assert begun.wait(LIMIT)
    errand.drop()
    until(lambda: "one that looks" not in {thread.name for thread in threading.enumerate()})


def test_one_that_waits_to_try_again_ends_when_it_is_dropped() -> None:
    def act(_: Callable[[], None]) -> None:
        raise StorageError("gone")

    errand = Errand(act, name="one that is dropped")
    errand.wait(LIMIT)
    errand.drop()
    until(lambda: "one that is dropped" not in {thread.name for thread in threading.enumerate()})


def test_its_movement_is_none_of_the_process() -> None:
    """A main thread that hangs is seen to hang while a checkpoint is uploaded."""
    seen: list[str] = []
    with PROCESS.heard(lambda: seen.append(threading.current_thread().name)):
        errand = Errand(lambda _: PROCESS.moved(), name="test")
        until(lambda: errand.done)
        PROCESS.moved()
    assert seen == [threading.current_thread().name]
    assert errand.moved()
