"""Stages that several pods share, on a real control plane: its Job controller numbers the pods and tells each its number."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from devcluster.processes import send
from mochi_api import layout
from mochi_api.runfile import PREPROCESSING
from mochi_api.status import FineTuneStatus, StageStatus
from tests.e2e.lab import Lab
from tests.e2e.pods import processes_of

SHARDS = {"trim": 3, "captions": 2, "videos": 2}
SHARED = {f"preprocessing.{stage}.shards": count for stage, count in SHARDS.items()}
AT_WORK_SECONDS = 120.0


@pytest.fixture(scope="module")
def applied(lab: Lab) -> Lab:
    """Both runs that nothing happens to, at once."""
    _apply(lab, "one-pod", {})
    _apply(lab, "shared", SHARED)
    return lab


@pytest.fixture(scope="module")
def by_one(applied: Lab) -> Mapping[str, Mapping[str, str]]:
    """SHA-256 of every object of each stage, where each stage has one pod."""
    left = _left(applied, "one-pod", _until_preprocessed(applied, "one-pod"))
    applied.delete("one-pod")
    return left


@pytest.fixture(scope="module")
def shared(applied: Lab) -> Iterator[tuple[FineTuneStatus, Mapping[str, Mapping[str, str]]]]:
    """A run whose stages have several pods, and what they left."""
    status = _until_preprocessed(applied, "shared")
    yield status, _left(applied, "shared", status)
    applied.delete("shared")


def test_shards_leave_what_one_pod_leaves(
    shared: tuple[FineTuneStatus, Mapping[str, Mapping[str, str]]], by_one: Mapping[str, Mapping[str, str]]
) -> None:
    status, left = shared
    assert left == by_one
    for stage in PREPROCESSING:
        told = _stage(status, stage)
        assert (told.attempt, told.items_total, told.items_done, told.cache_hit) == (1, 3, 3, False)


@pytest.mark.parametrize("stage", PREPROCESSING)
def test_the_pods_of_an_indexed_job_know_their_numbers(lab: Lab, shared: object, stage: str) -> None:
    count = SHARDS[stage]
    job = lab.kubectl.json("get", "job", f"shared-{stage}")
    assert job["spec"]["completionMode"] == "Indexed"
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["backoffLimit"]) == (
        count,
        count,
        0,
    )
    assert job["status"]["succeeded"] == count
    pods = sorted(lab.pods("shared", f"stage={stage}"), key=lambda pod: str(pod["metadata"]["name"]))
    said = [_outcome(pod) for pod in pods]
    assert [outcome.get("rank", 0) for outcome in said] == list(range(count))
    assert [bool(outcome.get("stageResult")) for outcome in said] == [True, *[False] * (count - 1)]
    for index, outcome in enumerate(said[1:], 1):
        assert outcome["message"].startswith(f"shard {index} of {count} made ")


def test_a_shard_that_is_killed_fails_the_attempt_and_the_next_goes_on(
    lab: Lab, by_one: Mapping[str, Mapping[str, str]]
) -> None:
    _apply(lab, "killed-shard", SHARED)
    send(_at_work(lab, "killed-shard-trim-1"), signal.SIGKILL)
    status = _until_preprocessed(lab, "killed-shard")
    trim = _stage(status, "trim")
    first = trim.attempts[-1]
    assert (trim.attempt, first.number, first.exit_code) == (2, 1, 128 + signal.SIGKILL)
    assert "killed-shard-trim-1-" in first.message
    assert _left(lab, "killed-shard", status) == by_one
    lab.delete("killed-shard")


def test_a_first_shard_that_is_taken_away_spends_no_budget(
    lab: Lab, by_one: Mapping[str, Mapping[str, str]]
) -> None:
    _apply(lab, "evicted-shard", {**SHARED, "runPolicy.backoffLimit": 0})
    _at_work(
        lab, "evicted-shard-trim-0"
    )  # it stays stopped: one that goes on may end well before it is told to stop
    pod = next(
        pod["metadata"]["name"]
        for pod in lab.pods("evicted-shard", "stage=trim")
        if pod["metadata"]["name"].startswith("evicted-shard-trim-0-")
    )
    lab.kubectl.run("delete", "pod", pod, "--wait=false")
    status = _until_preprocessed(lab, "evicted-shard")
    trim = _stage(status, "trim")
    assert [entry.reason for entry in reversed(trim.attempts)] == ["Preempted", "Completed"]
    assert trim.spent == 0
    assert _left(lab, "evicted-shard", status) == by_one
    lab.delete("evicted-shard")


def _apply(lab: Lab, name: str, changes: Mapping[str, Any]) -> None:
    """A run with a cache of its own, so that it makes everything."""
    lab.apply(name, {**changes, "storage.cacheURI": _cache(lab, name)})


def _cache(lab: Lab, name: str) -> str:
    return f"s3://{lab.site.bucket.name}/caches/{name}/"


def _until_preprocessed(lab: Lab, name: str) -> FineTuneStatus:
    def over(status: FineTuneStatus) -> bool:
        return any(stage.name == "videos" and stage.state == "Succeeded" for stage in status.stages)

    return lab.until(name, over, "the end of preprocessing")


def _left(lab: Lab, name: str, status: FineTuneStatus) -> dict[str, dict[str, str]]:
    """SHA-256 of every object that the stages list, by stage and name."""
    root = layout.cache_root(_cache(lab, name), "")
    found = {}
    for stage in PREPROCESSING:
        key = _stage(status, stage).cache_key
        manifest = json.loads(lab.text(layout.join(root, stage, key, layout.MANIFEST)))
        found[stage] = {entry["name"]: entry["sha256"] for entry in manifest["entries"]}
    return found


def _at_work(lab: Lab, host: str) -> list[Any]:
    """The processes of a shard, stopped as soon as there are any; its host name is the Job's with its number."""
    end = time.monotonic() + AT_WORK_SECONDS
    while not (found := processes_of(lab, host)):
        assert time.monotonic() < end, f"{host} has no process within {AT_WORK_SECONDS:.0f} s"
        time.sleep(0.05)
    send(found, signal.SIGSTOP)
    return found


def _stage(status: FineTuneStatus, name: str) -> StageStatus:
    return next(stage for stage in status.stages if stage.name == name)


def _outcome(pod: Mapping[str, Any]) -> dict[str, Any]:
    state = pod["status"]["containerStatuses"][0]["state"]
    outcome: dict[str, Any] = json.loads(state["terminated"]["message"].strip().splitlines()[-1])
    return outcome
