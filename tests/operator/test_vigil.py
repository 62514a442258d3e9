"""The vigil over each run: it begins with the process, and again when the clock jumps."""

from __future__ import annotations

from mochi_operator.vigil import Vigil
from tests.operator.fake_cluster import Clock

RUN, OTHER = ("n", "run"), ("n", "other")


def test_it_begins_with_the_first_look_at_each_run():
    clock = Clock()
    vigil = Vigil(clock, clock.steady)
    assert vigil.seconds(RUN) == 0
    clock.advance(40)
    assert vigil.seconds(RUN) == 40
    assert vigil.seconds(OTHER) == 0


def test_a_clock_that_is_slewed_changes_nothing():
    clock = Clock()
    vigil = Vigil(clock, clock.steady)
    vigil.seconds(RUN)
    for _ in range(100):
        clock.advance(15)
        clock.jump(0.05)
        vigil.seconds(RUN)
    assert vigil.seconds(RUN) == 1500


def test_a_jump_in_either_direction_begins_it_anew_for_every_run():
    for jump in (90, -90):
        clock = Clock()
        vigil = Vigil(clock, clock.steady)
        vigil.seconds(RUN)
        vigil.seconds(OTHER)
        clock.advance(100)
        clock.jump(jump)
        assert vigil.seconds(RUN) == 0
        clock.advance(10)
        assert (vigil.seconds(RUN), vigil.seconds(OTHER)) == (10, 0)


def test_a_run_that_is_gone_is_forgotten():
    clock = Clock()
    vigil = Vigil(clock, clock.steady)
    vigil.seconds(RUN)
    clock.advance(5)
    vigil.forget(RUN)
    assert vigil.seconds(RUN) == 0
