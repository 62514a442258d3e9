"""A loss that rises for long is told, noise is not."""

from __future__ import annotations

import math
import random

from mochi_api.heartbeat import DIVERGING
from mochi_trainer.train.divergence import WINDOW, Divergence


def ratios(losses: list[float]) -> list[float | None]:
    divergence, found = Divergence(), []
    for loss in losses:
        divergence.add(loss)
        found.append(divergence.ratio)
    return found


def test_nothing_is_said_before_there_are_enough_losses() -> None:
    assert ratios([1.0] * WINDOW)[-2:] == [None, 1.0]


def test_noise_as_large_as_the_loss_does_not_diverge() -> None:
    """The loss at a noise level drawn evenly, from 0.1 to 1.4: as much as it ranges over for the published model."""
    draws = random.Random(1)
    found = ratios([draws.uniform(0.1, 1.4) for _ in range(20_000)])
    assert max(ratio for ratio in found if ratio is not None) < DIVERGING


def test_a_loss_that_stays_three_times_as_high_diverges_within_a_window() -> None:
    found = ratios([1.0] * 200 + [3.0] * WINDOW)
    assert found[200] is not None
    assert found[200] < DIVERGING
    assert found[-1] == 3.0


def test_one_spike_and_a_loss_that_is_no_number_do_not() -> None:
    found = ratios([1.0] * 200 + [20.0, math.inf, math.nan] + [1.0] * 200)
    assert max(ratio for ratio in found if ratio is not None) < DIVERGING
