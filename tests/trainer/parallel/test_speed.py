"""A rank that is slow by itself is told before all others have to wait for it."""

from __future__ import annotations

import torch

from mochi_trainer.parallel.speed import Speed, measured, slow_ranks


def test_ranks_that_are_slower_than_the_median_are_told_for_each_kind_of_work() -> None:
    speeds = [Speed(0.010, 0.1), Speed(0.011, 0.1), Speed(0.030, 0.1), Speed(0.010, 0.2), Speed(0.014, 0.1)]
    assert slow_ranks(speeds) == [
        "rank 2 takes 2.7 times as long as the median of all ranks for a matrix product: 30 ms against 11 ms; "
        "all ranks wait for it in every step",
        "rank 3 takes 2.0 times as long as the median of all ranks for a copy to the device: 200 ms against 100 ms; "
        "all ranks wait for it in every step",
    ]


def test_equal_ranks_and_a_single_one_are_not_slow() -> None:
    assert slow_ranks([Speed(0.01, 0.1)] * 8) == []
    assert slow_ranks([measured(torch.device("cpu"))]) == []


def test_what_is_measured_is_a_time() -> None:
    assert min(measured(torch.device("cpu"))) > 0
