"""Each clip of a step counts at its own share of noise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_trainer.sigma_bins import BINS, by_sigma, names


def test_a_bin_has_the_mean_of_its_clips_and_none_without_any() -> None:
    assert by_sigma([1.0, 2.0, 4.0, math.nan], [0.1, 0.2, 0.99, 0.3]) == (1.5, None, None, 4.0)
    assert names() == ("0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1")


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_bins_weighted_by_their_clips_give_the_mean(clips: list[tuple[float, float]]) -> None:
    found = by_sigma(*zip(*clips, strict=True))
    counts = [sum(min(int(sigma * BINS), BINS - 1) == place for _, sigma in clips) for place in range(BINS)]
    total = sum(loss * count for loss, count in zip(found, counts, strict=True) if loss is not None)
    assert total == pytest.approx(sum(loss for loss, _ in clips))
