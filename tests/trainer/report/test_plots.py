"""Plots have round axes and draw every number once."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mochi_trainer.report.plots import (
    BARS,
    BARS_HEIGHT,
    BARS_WIDTH,
    HEIGHT,
    WIDTH,
    Line,
    bars,
    histogram,
    plot,
    smoothed,
    ticks,
)

numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(numbers, numbers)
@example(0.0, 5e-324)
@example(0.0, 1e-320)
def test_ticks_are_round_and_enclose_the_range(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found = ticks(low, high)
    assert 2 <= len(found) <= 12
    spread = max(high - low, abs(high) * 1e-9)
    assert found[0] <= low + spread * 1e-3
    assert found[-1] >= high - spread * 1e-3
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.31, 1.42, [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]), (0, 0, [0, 1])],
)
def test_ticks_are_those_a_person_would_choose(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, whole=(high == 0)) == pytest.approx(expected)


def test_steps_are_whole_numbers() -> None:
    assert ticks(1, 3, whole=True) == [1, 2, 3]


@given(st.lists(st.one_of(st.none(), numbers), min_size=1, max_size=50))
def test_everything_is_drawn_inside(values: list[float | None]) -> None:
    svg = plot("Loss", [Line(label="x", points=list(enumerate(values)), style="main", dots=True)], unit="u")
    if all(value is None for value in values):
        assert svg.strip() == '<p class="absent">No values for loss.</p>'
        return
    assert svg.count("<circle") == sum(value is not None for value in values)
    assert svg.count("×") == values.count(None)
    for pair in re.findall(r"[\d.-]+,[\d.-]+", " ".join(re.findall(r'points="([^"]*)"', svg))):
        x, y = map(float, pair.split(","))
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_the_smooth_line_starts_at_the_first_value_and_passes_over_gaps() -> None:
    points = [(1, 4.0), (2, None), (3, 4.0), (4, 0.0)]
    found = smoothed(points)
    assert [value for _, value in found[:3]] == pytest.approx([4.0, 4.0, 4.0])
    assert 0 < found[3][1] < 4


positive = st.floats(0, 1e6, allow_nan=False)


@given(st.one_of(st.lists(positive, min_size=1, max_size=50), st.lists(st.integers(0, 300), min_size=1)))
@example([0.0, 5e-324])
@example([37, 37])
def test_each_value_is_in_one_bar_and_every_bar_is_drawn_inside(values: list[float]) -> None:
    whole = all(isinstance(value, int) for value in values)
    found = bars(values, whole=whole)
    assert sum(bar.count for bar in found) == len(values)
    assert 1 <= len(found) <= 2 * BARS + 2
    svg = histogram("Length", values, unit="s", whole=whole)
    drawn = re.findall(r'<rect x="([^"]*)" y="([^"]*)" width="([^"]*)" height="([^"]*)"', svg)
    assert len(drawn) == sum(bar.count > 0 for bar in found)
    for rectangle in drawn:
        x, y, width, height = map(float, rectangle)
        assert 0 <= x <= x + width <= BARS_WIDTH
        assert 0 <= y <= y + height <= BARS_HEIGHT
        assert width > 0
        assert height > 0


def test_bars_are_those_a_person_would_count() -> None:
    found = bars([1, 1, 2, 4], whole=True)
    assert [(bar.low, bar.count) for bar in found] == [(1, 2), (2, 1), (3, 0), (4, 1)]
    assert [(bar.low, bar.high, bar.count) for bar in bars([0.0, 0.1, 1.6], whole=False) if bar.count] == [
        (0, pytest.approx(0.1), 1),
        (pytest.approx(0.1), pytest.approx(0.2), 1),
        (pytest.approx(1.6), pytest.approx(1.7), 1),
    ]
