"""How many blocks of a run keep their activations: as said, or as there is room for."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from mochi_api.prediction.fitting import SPARE, least_needed, needed
from mochi_api.prediction.policies import Policy
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.work import Work
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs.left_alone import as_room_allows, blocks_left_alone
from mochi_trainer.parallel.group import Group

WORK = Work(mode="lora", network=NETWORKS["mochi-1"], frames=85, width=848, height=480)
CPU = torch.device("cpu")
RUN = RunFile.model_validate(
    {
        "stage": "train",
        "run": {"namespace": "a", "name": "b", "uid": "c"},
        "mode": "lora",
        "model": {"preset": "nano"},
        "dataset": {"source": {"s3": {"uri": "s3://clips/"}}},
        "preprocessing": {},
        "training": {},
        "sampling": {},
        "s3": {},
        "locations": {"dataset": "s3://clips", "cache": "s3://runs/cache", "run": "s3://runs/runs/c"},
    }
)


@pytest.mark.parametrize("count", [2, 12, 40])
def test_as_many_as_fit(count: int) -> None:
    enough = needed(WORK, Policy(left_alone=count))
    room = enough * SPARE // (SPARE - 1) + 1
    assert as_room_allows(WORK, room) == count
    assert as_room_allows(WORK, room - SPARE) == count - 1
    assert as_room_allows(WORK, enough) < count, "a part stays free"


def test_less_than_the_least_is_tried_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert as_room_allows(replace(WORK, frames=163), least_needed(WORK)) == 1
    assert caplog.messages == [
        "the training needs 53.8 GiB, and the GPU has 37.8 GiB free: it will most likely not fit"
    ]


@pytest.mark.parametrize(
    ("text", "count"), [("", 4), ("0", 0), ("3", 3)], ids=["nothing said", "none", "three"]
)
def test_what_the_environment_says_comes_first(text: str, count: int) -> None:
    environ = {"MOCHI_BLOCKS_LEFT_ALONE": text} if text else {}
    assert blocks_left_alone(RUN, 4, Group(), CPU, environ) == count


def test_what_is_no_number_is_said() -> None:
    with pytest.raises(InvalidInputError, match="must be from 0 to the 4 blocks of the model, got '-1'"):
        blocks_left_alone(RUN, 4, Group(), CPU, {"MOCHI_BLOCKS_LEFT_ALONE": "-1"})
