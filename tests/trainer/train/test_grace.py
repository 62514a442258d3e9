"""The grace period is compared with what stopping takes, before and after it is measured."""

from __future__ import annotations

import time

import pytest

from mochi_trainer.train.grace import Grace, seconds_needed


def test_what_is_needed_are_the_step_and_two_checkpoints_in_whole_tens() -> None:
    assert seconds_needed(step=6, save=60) == 130
    assert seconds_needed(step=0, save=0) == 0


def test_fifteen_gigabytes_are_expected_to_take_longer_than_three_minutes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grace = Grace(seconds=180)
    grace.expect(15_000_000_000)
    [record] = caplog.records
    assert record.getMessage().startswith(
        "a training that is stopped is expected to need 300 s for the step at hand and its checkpoint, and has 180 s"
    )
    assert record.getMessage().endswith("set runPolicy.gracePeriodSeconds to 300")


def test_what_was_measured_takes_the_place_of_what_was_expected(caplog: pytest.LogCaptureFixture) -> None:
    grace = Grace(seconds=180)
    grace.expect(15_000_000_000)
    grace.measured(step=5, save=40)
    assert (grace.needed, grace.warning) == (90, "")
    grace.measured(step=5, save=200)
    grace.measured(step=5, save=200)  # told once
    assert len(caplog.records) == 2
    assert "needs, as measured, 410 s" in caplog.records[-1].getMessage()
    assert "set runPolicy.gracePeriodSeconds to 410" in grace.warning


def test_more_than_may_be_set_is_not_advised() -> None:
    grace = Grace(seconds=180)
    grace.measured(step=5, save=5000)
    assert "set runPolicy" not in grace.warning
    assert "3600 s are the most" in grace.warning


def test_a_checkpoint_is_begun_only_when_it_can_end_in_time() -> None:
    grace = Grace(seconds=100)
    assert grace.allows(1000, since=None)
    assert grace.allows(50, since=time.monotonic() - 30)
    assert not grace.allows(50, since=time.monotonic() - 60)
