"""Several pods that share a stage leave what one leaves, byte for byte, and make each unit once."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from mochi_api.identity import SHARD_ENV
from mochi_trainer.cpus import available
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.graph.making import UPLOADS
from mochi_trainer.jobs import captions, trim, videos
from mochi_trainer.jobs.shards import Shard, shard_of
from mochi_trainer.jobs.units import claims_for
from mochi_trainer.storage import Store
from tests.trainer.jobs_preprocessing import killed, sharded
from tests.trainer.jobs_preprocessing.killed import STAGES, contents, made, of_attempt, preload, write_clips
from tests.trainer.preprocessing_runs import run_file

CLIPS = 12
SHARDS = 3


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one pod makes."""
    preload()
    root = tmp_path_factory.mktemp("alone")
    write_clips(root / "source", CLIPS)
    return root


@pytest.fixture(scope="module")
def by_one(alone: Path) -> dict[str, str]:
    """The contents of all outputs of one pod."""
    keys, _ = killed.stages(alone)
    return contents(alone, keys)


def test_shards_leave_what_one_pod_leaves_and_make_each_unit_once(
    tmp_path: Path, alone: Path, by_one: dict[str, str]
) -> None:
    write_clips(tmp_path / "source", CLIPS)
    keys, said, _ = sharded.stages(tmp_path, SHARDS)
    assert contents(tmp_path, keys) == by_one
    assert made(tmp_path).total() == made(alone).total()
    assert set(made(tmp_path).values()) == {1}
    for stage in STAGES:
        assert [bool(key) for key, _ in said[stage]] == [True, False, False]
        for index, (_, message) in enumerate(said[stage][1:], 1):
            assert re.fullmatch(rf"shard {index} of 3 made \d+ of 1[23] (clips|captions)", message), message


def test_shards_that_are_killed_go_on_in_the_next_attempt(
    tmp_path: Path, alone: Path, by_one: dict[str, str]
) -> None:
    write_clips(tmp_path / "source", CLIPS)
    keys, _, kills = sharded.stages(tmp_path, SHARDS, random.Random(5))
    assert contents(tmp_path, keys) == by_one
    under_way = UPLOADS + available() + 1
    assert sum(made(tmp_path).values()) <= sum(made(alone).values()) + kills * under_way


def test_a_first_shard_that_comes_last_tells_what_the_others_have_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy cluster its pod starts when theirs are done; nothing was reused for that."""
    write_clips(tmp_path / "source", 3)
    shards = {stage: {"shards": 2} for stage in STAGES}
    for uid, reused in (("one", False), ("another", True)):
        keys: dict[str, str] = {}
        for stage, job in (("trim", trim), ("captions", captions), ("videos", videos)):
            run = run_file(tmp_path, stage=stage, keys=keys, uid=uid, **shards)
            monkeypatch.setenv(SHARD_ENV, "1")
            assert job.execute(run).result is None
            monkeypatch.setenv(SHARD_ENV, "0")
            done = job.execute(run)
            assert done.result is not None
            assert (done.result.cache_hit, done.message.startswith("reused")) == (reused, reused), (
                done.message
            )
            keys[stage] = done.result.cache_key


@pytest.mark.parametrize(
    ("environment", "count", "place"),
    [
        ({}, 3, Shard(index=0, count=3)),
        ({SHARD_ENV: "2"}, 3, Shard(index=2, count=3)),
        ({SHARD_ENV: "7"}, 1, Shard()),
    ],
    ids=["by hand", "a pod of an Indexed Job", "a stage of one pod"],
)
def test_the_place_of_a_shard(environment: dict[str, str], count: int, place: Shard) -> None:
    run = run_file("/tmp", captions={"shards": count})
    assert shard_of(run, "captions", environment) == place
    assert shard_of(run, "trim", environment) == Shard()


@pytest.mark.parametrize("index", ["3", "-1", "first", ""])
def test_a_place_that_cannot_be_is_refused(index: str) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"{SHARD_ENV} must be between 0 and preprocessing.trim.shards - 1 = 2"
    ):
        shard_of(run_file("/tmp", trim={"shards": 3}), "trim", {SHARD_ENV: index})


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_each_bucket_is_in_the_share_of_one(count: int) -> None:
    for bucket in range(256):
        assert sum(Shard(index=index, count=count).owns(f"{bucket:02x}") for index in range(count)) == 1


@pytest.mark.parametrize(
    ("attempt", "index", "taken"),
    [(1, 1, False), (1, 0, True), (2, 0, True), (2, 1, True)],
    ids=["a shard beside it", "an earlier process of the shard", "the next attempt", "another shard of it"],
)
def test_whose_claims_are_void(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, attempt: int, index: int, taken: bool
) -> None:
    """A claim of a dead process is overtaken at once where it can only be dead, and not while its owner may live."""
    run = run_file(tmp_path, trim={"shards": 3})
    monkeypatch.setenv(SHARD_ENV, "0")
    first = claims_for(of_attempt(run, 1), store, "trim", "family")
    assert first.take("ab")
    monkeypatch.setenv(SHARD_ENV, str(index))
    other = claims_for(of_attempt(run, attempt), store, "trim", "family")
    other.look()
    assert other.take("ab") is taken
