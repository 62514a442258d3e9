"""Frames are those that a player shows at each time."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mochi_trainer.video import frame_choice, on_screen


def test_the_same_rate_takes_each_frame_once() -> None:
    assert frame_choice([k / 30 for k in range(10)], fps=30, count=10) == list(range(10))


def test_a_higher_rate_loses_frames_and_a_lower_one_repeats_them() -> None:
    assert frame_choice([k / 60 for k in range(20)], fps=30, count=5) == [0, 2, 4, 6, 8]
    assert frame_choice([k / 10 for k in range(4)], fps=30, count=9) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_ntsc_rates_and_rounded_timestamps_do_not_skip() -> None:
    ntsc = [round(k * 1001 / 30000, 3) for k in range(100)]
    assert frame_choice(ntsc, fps=30, count=60) == list(range(60))


def test_a_start_that_is_not_zero_is_taken_off() -> None:
    assert frame_choice([5 + k / 25 for k in range(5)], fps=25, count=5) == [0, 1, 2, 3, 4]


def test_a_variable_rate_follows_the_clock() -> None:
    assert frame_choice([0.0, 0.1, 0.5, 0.6], fps=10, count=7) == [0, 1, 1, 1, 1, 2, 3]


def test_a_clip_that_ends_early_yields_fewer() -> None:
    assert frame_choice([k / 30 for k in range(5)], fps=30, count=10) == [0, 1, 2, 3, 4]
    assert frame_choice([k / 25 for k in range(50)], fps=30, count=99)[-1] == 49
    assert frame_choice([0.0], fps=30, count=3) == [0]
    assert frame_choice([], fps=30, count=3) == []


def test_no_more_is_read_than_needed() -> None:
    endless = ((k / 30, 0.0, k) for k in itertools.count())
    assert list(on_screen(endless, fps=30, count=3)) == [0, 1, 2]
    assert next(endless)[2] == 4


def test_the_last_frame_lasts_as_long_as_its_duration_says() -> None:
    assert frame_choice([0.0, 0.1], fps=10, count=9, last=0.5) == [0, 1, 1, 1, 1, 1]
    assert frame_choice([0.0, 0.5], fps=10, count=9, last=0.1) == [0, 0, 0, 0, 0, 1]
    assert frame_choice([0.0], fps=10, count=9, last=0.3) == [0, 0, 0]


def test_a_start_inside_the_clip_leaves_out_what_is_before_it() -> None:
    timed = [(k / 10, 0.1, k) for k in range(10)]
    assert list(on_screen(timed, fps=10, count=3, zero=0.4)) == [4, 5, 6]
    assert list(on_screen(timed, fps=10, count=9, zero=0.85)) == [8, 9]
    assert list(on_screen(timed, fps=10, count=9, zero=2.0)) == []


@given(
    st.lists(st.floats(0.005, 0.5), min_size=1, max_size=40),
    st.integers(1, 60),
    st.integers(1, 100),
)
def test_choices_only_go_forward_and_show_the_latest_frame(gaps: list[float], fps: int, count: int) -> None:
    times = list(itertools.accumulate(gaps))
    chosen = frame_choice(times, fps=fps, count=count)
    assert len(chosen) <= count
    assert chosen == sorted(chosen)
    for number, index in enumerate(chosen):
        middle = times[0] + (number + 0.5) / fps
        assert times[index] <= middle
        assert index + 1 == len(times) or times[index + 1] > middle - 0.0021
