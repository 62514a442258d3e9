"""Work that never ends is given up in time, and what it waited for is named."""

from __future__ import annotations

import threading

import pytest

from mochi_trainer.jobs.checks.watch import Watch, run_watched


def test_work_that_ends_is_no_matter() -> None:
    assert run_watched(Watch(5), lambda: None) is None


def test_an_error_of_the_work_comes_through() -> None:
    def work() -> None:
        raise KeyError("of the work")

    with pytest.raises(KeyError, match="of the work"):
        run_watched(Watch(5), work)


def test_a_wait_without_an_answer_is_given_up_after_its_own_limit() -> None:
    watch, end = Watch(60), threading.Event()

    def work() -> None:
        with watch.waiting("s3://data/x at http://store", 0.2):
            end.wait(20)

    late = run_watched(watch, work)
    end.set()
    assert str(late) == "s3://data/x at http://store: no answer, waited 0 s"


def test_all_waits_together_have_a_limit_and_the_last_one_is_named() -> None:
    watch, end = Watch(0.3), threading.Event()

    def work() -> None:
        with watch.waiting("the first", 10):
            pass
        with watch.waiting("the second", 10):
            end.wait(20)

    late = run_watched(watch, work)
    end.set()
    assert str(late).startswith("the second: not finished, waited 0 s of 0 s for everything")


def test_a_wait_that_is_over_is_forgotten() -> None:
    watch = Watch(60)
    with watch.waiting("the first", 0.0):
        assert watch.overdue() is not None
    assert watch.overdue() is None


def test_own_work_costs_no_patience_however_long_it_takes() -> None:
    watch, end = Watch(0.3), threading.Event()

    def work() -> None:
        with watch.busy("loading", 20):
            end.wait(0.8)
        with watch.waiting("the store", 10):
            end.wait(0.1)

    assert run_watched(watch, work) is None
    assert 0 < watch.left < 0.3


def test_own_work_has_a_limit_of_its_own() -> None:
    watch, end = Watch(60), threading.Event()

    def work() -> None:
        with watch.busy("loading torch", 0.2):
            end.wait(20)

    late = run_watched(watch, work)
    end.set()
    assert late is not None
    assert str(late) == "loading torch: not finished after 0 s"
    assert late.action is not None
    assert "node" in late.action
