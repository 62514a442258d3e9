"""Ranks find each other, agree, and notice when one of them is gone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from mochi_trainer import failures
from mochi_trainer.errors import CollectiveTimeoutError, InvalidInputError, PreemptedError
from mochi_trainer.movement import Movement
from mochi_trainer.parallel.group import Group, joined, peers_limit, time_limit
from mochi_trainer.parallel.ranks import Ranks, ranks_of
from tests.trainer.distributed import free_port, run_distributed

CPU = torch.device("cpu")
JOB = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-worker-0", "MASTER_PORT": "23456"}


def test_ranks_come_from_the_environment_of_a_pytorchjob() -> None:
    assert ranks_of(JOB, processes=2) == Ranks(rank=1, world=2, address="job-worker-0", port=23456)


def test_one_process_needs_no_environment() -> None:
    assert ranks_of({}, processes=1) == Ranks()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"WORLD_SIZE": "3"}, "WORLD_SIZE must be 2, as the world of the run file says, got 3"),
        ({"RANK": "2"}, "RANK must be between 0 and WORLD_SIZE - 1 = 1, got 2"),
        ({"MASTER_PORT": ""}, "MASTER_PORT must be a number when there are several ranks, got ''"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR must name the host of rank 0"),
    ],
)
def test_a_wrong_environment_is_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ranks_of(JOB | change, processes=2)


def _agree() -> tuple[list[float], bool, bool, list[int], str]:
    ranks = ranks_of(os.environ, processes=2)
    with joined(ranks, CPU, limit=30) as group:
        return (
            group.total([1.0, float(group.rank)]),
            group.any(group.rank == 1),
            group.any(False),
            group.gathered(group.rank * 10),
            group.from_first("zero" if group.first else None),
        )


def test_ranks_agree() -> None:
    expected = ([2.0, 1.0], True, False, [0, 10], "zero")
    assert run_distributed(_agree, 2) == [expected, expected]


def test_a_group_of_one_agrees_with_itself() -> None:
    group = Group()
    assert (group.total([3.0]), group.any(True), group.gathered("a"), group.from_first("b")) == (
        [3.0],
        True,
        ["a"],
        "b",
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_never_comes_ends_the_wait(rank: int) -> None:
    ranks = Ranks(rank=rank, world=2, address="127.0.0.1", port=free_port())
    started = time.monotonic()
    with pytest.raises(CollectiveTimeoutError, match="after 1 s"), joined(ranks, CPU, limit=1):
        pass
    assert time.monotonic() - started < 20


def test_a_name_that_does_not_resolve_yet_is_waited_for() -> None:
    ranks = Ranks(rank=1, world=2, address="absent.invalid", port=1)
    with (
        pytest.raises(CollectiveTimeoutError, match=r"rank 0 at absent\.invalid:1 does not answer"),
        joined(ranks, CPU, limit=1),
    ):
        pass


def test_a_signal_ends_the_wait_for_other_ranks() -> None:
    def check() -> None:
        raise PreemptedError("stopped")

    ranks = Ranks(rank=0, world=2, address="127.0.0.1", port=free_port())
    with pytest.raises(PreemptedError), joined(ranks, CPU, limit=30, check=check):
        pass


LIMIT = 5.0


def _come_late() -> tuple[list[float], list[str]]:
    ranks, movement = ranks_of(os.environ, processes=2), Movement()
    if ranks.rank == 1:
        time.sleep(LIMIT + 1)  # as a pod that waits for a node: longer than a collective may take
    activities: list[str] = []
    with (
        movement.heard(lambda: activities.append(movement.heartbeat().activity)),
        joined(ranks, CPU, limit=LIMIT, peers=60, movement=movement) as group,
    ):
        return group.total([1.0]), activities


def test_a_peer_may_come_later_than_a_collective_may_take() -> None:
    """Each rank that comes is movement, waiting is none."""
    first, late = run_distributed(_come_late, 2)
    assert first == ([2.0], ["waiting for peers"])
    assert late[0] == [2.0]


def test_the_operator_decides_how_long_peers_are_waited_for(tmp_path: Path) -> None:
    """Where its run file is mounted; by hand nobody watches."""
    mounted = tmp_path / "run.yaml"
    assert peers_limit(mounted) == time_limit()
    mounted.touch()
    assert peers_limit(mounted) == 24 * 3600


def _lose_a_peer() -> str:
    ranks = ranks_of(os.environ, processes=2)
    try:
        with joined(ranks, CPU, limit=20) as group:
            group.barrier()
            if group.rank == 1:
                return "gone"
            group.barrier()
    except RuntimeError as error:
        return type(failures.translated(error)).__name__
    return "nothing noticed"


def test_a_rank_that_dies_is_noticed_by_the_others() -> None:
    assert run_distributed(_lose_a_peer, 2) == ["CollectiveTimeoutError", "gone"]
