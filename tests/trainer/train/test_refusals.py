"""Refusals are counted from the first on, and begin anew after anything else."""

from __future__ import annotations

import pytest

from mochi_trainer.errors import AccessDeniedError, NotAdmittedError, StorageError
from mochi_trainer.train.refusals import Refusals


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_refusals_of_either_kind_are_counted_from_the_first() -> None:
    refusals = Refusals(clock=(clock := Clock()))
    assert refusals.seconds == 0
    for error in (AccessDeniedError("no"), NotAdmittedError("expired"), AccessDeniedError("no")):
        refusals.failed(error)
        clock.now += 60
    assert refusals.seconds == 180


@pytest.mark.parametrize("after", ["an outage", "success"])
def test_the_count_begins_anew(after: str) -> None:
    refusals = Refusals(clock=(clock := Clock()))
    refusals.failed(AccessDeniedError("no"))
    clock.now += 60
    if after == "success":
        refusals.over()
    else:
        refusals.failed(StorageError("no answer"))
    assert refusals.seconds == 0
    refusals.failed(AccessDeniedError("no"))
    clock.now += 5
    assert refusals.seconds == 5
