"""A training that is killed at random moments ends with the weights and the losses of one that was left alone."""

from __future__ import annotations

import random
from pathlib import Path

from tests.trainer.conftest import Server
from tests.trainer.jobs_training.killed import (
    GANG,
    GANG_SPEED,
    killed,
    left_alone,
    preload,
    result,
    run_of,
    slow_link,
)
from tests.trainer.training_runs import write_dataset

KILLS = 4
GANG_KILLS = 6


def test_a_killed_training_equals_one_that_was_left_alone(tmp_path: Path, s3_server: Server) -> None:
    """`python -m tests.bench.killed_training` kills thirty times, and tells what was hit and what it cost."""
    preload()
    write_dataset(tmp_path)
    with slow_link(s3_server) as spec:
        folders = [s3_server.folder / name for name in ("left-alone", "killed-often")]
        seconds = left_alone(run_of(tmp_path, "left-alone", spec))
        often = run_of(tmp_path, "killed-often", spec)
        kills = killed(often, folders[1], random.Random(3), KILLS, longest=seconds)
    assert len(kills) > 0
    assert all(kill.again <= 10 for kill in kills)  # one under way, and those since
    assert result(folders[1]) == result(folders[0])


def test_a_gang_of_which_one_rank_or_all_are_killed_equals_one_that_was_left_alone(
    tmp_path: Path, s3_server: Server
) -> None:
    """`python -m tests.bench.killed_training 30 SEED 2` kills thirty times."""
    preload()
    write_dataset(tmp_path)
    with slow_link(s3_server, bytes_per_second=GANG_SPEED) as spec:
        folders = [s3_server.folder / name for name in ("gang-alone", "gang-killed")]
        seconds = left_alone(run_of(tmp_path, "gang-alone", spec, **GANG))
        often = run_of(tmp_path, "gang-killed", spec, **GANG)
        kills = killed(often, folders[1], random.Random(5), GANG_KILLS, longest=seconds)
    assert len(kills) > 0
    assert all(kill.again <= 2 * GANG["checkpoint"]["everySteps"] for kill in kills)
    assert result(folders[1]) == result(folders[0])
