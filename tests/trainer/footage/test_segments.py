"""Pieces of a long clip: of one length, never overlapping, never over a change of shot."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_trainer.footage.segments import (
    MARGIN,
    Stretch,
    even_segments,
    even_starts,
    shot_frames,
    shot_segments,
    shot_starts,
    shots,
)

WHOLE = Stretch(0.0, 60.0)
lengths = st.floats(0.2, 20)
counts = st.integers(1, 12)


def test_even_segments_lie_in_the_middle_of_equal_parts() -> None:
    assert even_segments(WHOLE, seconds=4, count=3) == [
        Stretch(8.0, 12.0), Stretch(28.0, 32.0), Stretch(48.0, 52.0),
    ]  # fmt: skip


def test_a_clip_of_exactly_the_length_is_one_segment() -> None:
    assert even_segments(Stretch(0.5, 0.5 + 0.3), seconds=0.3, count=4) == [Stretch(0.5, 0.8)]


def test_a_clip_that_is_too_short_gives_none() -> None:
    assert even_segments(Stretch(0, 1), seconds=1.2, count=3) == []


def test_a_shot_gives_one_segment_before_another_gives_two() -> None:
    changes = [Stretch(40, 40), Stretch(44, 45), Stretch(52, 52)]
    found = shot_segments(WHOLE, changes, seconds=2, count=5, margin=0.25)
    assert found == [
        Stretch(8.9375, 10.9375), Stretch(28.8125, 30.8125), Stretch(41.0, 43.0), Stretch(47.5, 49.5),
        Stretch(55.125, 57.125),
    ]  # fmt: skip


def test_shots_keep_away_from_a_change_on_both_sides() -> None:
    assert shots(Stretch(0, 10), [Stretch(4, 5)], margin=0.5) == [Stretch(0, 3.5), Stretch(5.5, 10)]


def test_flashes_of_shots_shorter_than_the_margins_are_none() -> None:
    assert shots(Stretch(0, 10), [Stretch(4, 4), Stretch(4.1, 4.1)], margin=0.1) == [
        Stretch(0, 3.9),
        Stretch(4.199999999999999, 10),
    ]


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_nonsense_is_refused_with_the_numbers(seconds: float, count: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} of {seconds} s"):
        even_segments(WHOLE, seconds=seconds, count=count)


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 2)), max_size=8), lengths, counts)
def test_segments_have_the_length_and_touch_neither_each_other_nor_a_change(
    marks: list[tuple[float, float]], seconds: float, count: int
) -> None:
    changes: list[Stretch] = []
    for at, length in sorted(marks):
        if at + length <= WHOLE.end and (not changes or at >= changes[-1].end):
            changes.append(Stretch(at, at + length))
    found = shot_segments(WHOLE, changes, seconds=seconds, count=count)
    assert len(found) <= count
    for piece in found:
        assert piece.seconds == pytest.approx(seconds)
        assert WHOLE.start <= piece.start
        assert piece.end <= WHOLE.end + 1e-5
        assert not any(
            piece.start < change.end + 0.09 and piece.end > change.start - 0.09 for change in changes
        )
    assert all(a.end <= b.start + 1e-5 for a, b in pairwise(found))


@given(st.integers(1, 400), st.integers(1, 60), st.integers(1, 64))
def test_even_segments_of_frames_lie_inside_and_apart_and_are_as_many_as_fit(
    frames: int, kept: int, most: int
) -> None:
    firsts = even_starts(frames, kept=kept, most=most)
    assert len(firsts) == min(most, frames // kept)
    assert all(0 <= first <= frames - kept for first in firsts)
    assert all(b - a >= kept for a, b in pairwise(firsts))
    gaps = [b - a for a, b in pairwise(firsts)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 1)), max_size=8),
    st.sampled_from([1, 12, 24, 30]),
    st.floats(0, 5),
    st.integers(1, 64),
)
def test_segments_in_shots_touch_no_change_by_any_of_their_frames(
    marks: list[tuple[float, float]], fps: int, start: float, most: int
) -> None:
    changes: list[Stretch] = []
    for at, length in sorted(marks):
        if not changes or at >= changes[-1].end:
            changes.append(Stretch(at, at + length))
    kept, frames = max(1, fps // 2), 15 * fps
    found = shot_frames(changes, frames, fps=fps, start=start)
    firsts = shot_starts(found, kept=kept, most=most)
    assert len(firsts) <= most
    assert all(0 <= first <= frames - kept for first in firsts)
    assert all(b - a >= kept for a, b in pairwise(firsts))
    for first in firsts:
        begin, end = start + first / fps, start + (first + kept) / fps
        assert not any(begin < c.end + MARGIN - 1e-5 and end > c.start - MARGIN + 1e-5 for c in changes)
    if not changes:
        assert firsts == even_starts(frames, kept=kept, most=most)
