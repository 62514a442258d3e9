"""A run passes from one version of the operator to the other at every point of its way: nothing starts anew, nothing is lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mochi_operator import wire
from tests.operator.world import full
from tests.skew.pinned import Checkout
from tests.skew.trees import crd_schema, filled_in, pruned

Document = dict[str, Any]

BOTH: Mapping[str, Document] = {
    "pending: the backend is not installed": {"phase": "Pending", "absent": ["PyTorchJob"]},
    "trim": {"phase": "Preprocessing", "hold": {"stage": "trim"}},
    "captions": {"phase": "Preprocessing", "hold": {"stage": "captions"}},
    "videos": {"phase": "Preprocessing", "hold": {"stage": "videos"}},
    "starting": {"phase": "Starting"},
    "training": {"phase": "Training", "hold": {"stage": "train"}},
    "training in two pods": {"phase": "Training", "hold": {"stage": "train"}, "spec": full()},
    "retrying": {"phase": "Retrying", "fail": [{"stage": "train", "reason": "StorageError"}]},
    "second attempt": {
        "phase": "Training",
        "fail": [{"stage": "train", "reason": "StorageError"}],
        "hold": {"stage": "train", "attempt": 2},
    },
    "sampling": {"phase": "Sampling", "hold": {"stage": "sample"}},
    "succeeded": {"phase": "Succeeded"},
    "failed": {"phase": "Failed", "fail": [{"stage": "train", "reason": "InvalidInput"}]},
    "failed in a stage": {"phase": "Failed", "fail": [{"stage": "captions", "reason": "MissingObject"}]},
}
NEW_ONLY: Mapping[str, Document] = {
    "second attempt of trim": {
        "phase": "Preprocessing",
        "fail": [{"stage": "trim", "reason": "StorageError"}],
        "hold": {"stage": "trim", "attempt": 2},
    },
    "after a second attempt of videos": {
        "phase": "Training",
        "fail": [{"stage": "videos", "reason": "StorageError"}],
        "hold": {"stage": "train"},
    },
    "succeeded without samples": {
        "phase": "Succeeded",
        "fail": [{"stage": "sample", "reason": "OutOfMemory"}],
    },
}
CHECKING: Document = {"phase": "Preprocessing", "hold": {"stage": "check"}}
ORDER = ("check", "trim", "captions", "videos", "train", "sample")
UNFINISHED = ("Pending", "Preprocessing", "Starting", "Training", "Retrying", "Sampling")


@pytest.fixture(scope="module")
def by_old(old: Checkout) -> dict[str, Document]:
    """Clusters that the pinned operator has looked after."""
    found: dict[str, Document] = old.ask("reach", dict(BOTH))
    return found


@pytest.fixture(scope="module")
def by_new(new: Checkout) -> dict[str, Document]:
    """Clusters that the operator of this commit has looked after."""
    found: dict[str, Document] = new.ask("reach", {**BOTH, **NEW_ONLY, "check": CHECKING})
    return found


@pytest.fixture(scope="module")
def upgraded(new: Checkout, by_old: dict[str, Document]) -> dict[str, Document]:
    """What the operator of this commit makes of the clusters of the pinned one."""
    found: dict[str, Document] = new.ask("take_over", by_old)
    return found


@pytest.fixture(scope="module")
def stripped(old: Checkout, by_new: dict[str, Document]) -> dict[str, Document]:
    """The clusters of this commit, as an API server with the pinned CRD shows them."""
    schema = crd_schema(old.root)
    return {
        name: {**cluster, "objects": [_shown(item, schema) for item in cluster["objects"]]}
        for name, cluster in by_new.items()
    }


@pytest.fixture(scope="module")
def rolled_back(old: Checkout, stripped: dict[str, Document]) -> dict[str, Document]:
    """What the pinned operator makes of the clusters of this commit."""
    found: dict[str, Document] = old.ask("take_over", stripped)
    return found


@pytest.fixture(scope="module")
def upgraded_again(new: Checkout, rolled_back: dict[str, Document]) -> dict[str, Document]:
    """What the operator of this commit makes of the clusters that it had looked after before the pinned one did."""
    found: dict[str, Document] = new.ask("take_over", rolled_back)
    return found


def _shown(item: Document, schema: Document) -> Document:
    if item["kind"] != "MochiFineTune":
        return item
    fields = schema["properties"]
    return {**item, **{part: pruned(item[part], fields[part]) for part in ("spec", "status") if part in item}}


def _status(cluster: Document) -> Document:
    status: Document = next(item for item in cluster["objects"] if item["kind"] == "MochiFineTune")["status"]
    return status


def _begun(cluster: Document) -> set[str]:
    return {
        item["metadata"]["name"]
        for item in cluster["objects"]
        if item["kind"] in ("Job", "PyTorchJob", "ConfigMap")
    }


def _assert_nothing_started_or_stopped(before: Document, after: Document) -> None:
    assert after["writes"] == []
    again = {name for verb, _, name in after["end"]["writes"] if verb == "create"} & _begun(before)
    assert not again, f"made a second time: {again}"


def _assert_nothing_lost(before: Document, after: Document) -> None:
    """Results, artifacts, choices and history of the training are as they were; the phase does not go back."""
    assert after["phase"] == before["phase"]
    for kept in ("resolved", "artifacts", "checkpoints"):
        assert after["status"].get(kept) == before.get(kept), kept
    assert _history(after["status"]) == _history(before)
    assert "BackendDeleted" not in json.dumps(after["status"]), "a child that runs was taken for deleted"
    assert _stages(after["status"]) == _stages(before)


def _history(status: Document) -> list[tuple[Any, ...]]:
    fields = ("number", "backendName", "reason", "message", "exitCode", "lastStep", "startTime", "endTime")
    return [tuple(item.get(field) for field in fields) for item in status.get("attempts", ())]


def _stages(status: Document) -> dict[str, tuple[Any, ...]]:
    fields = (
        "state",
        "jobName",
        "cacheKey",
        "cacheHit",
        "itemsTotal",
        "itemsDone",
        "startTime",
        "completionTime",
    )
    return {item["name"]: tuple(item.get(field) for field in fields) for item in status.get("stages", ())}


@pytest.mark.parametrize("name", BOTH)
def test_an_upgrade_starts_nothing_anew_and_loses_nothing(
    name: str, by_old: dict[str, Document], upgraded: dict[str, Document]
) -> None:
    _assert_nothing_started_or_stopped(by_old[name], upgraded[name])
    _assert_nothing_lost(_status(by_old[name]), upgraded[name])


@pytest.mark.parametrize("name", [*BOTH, *NEW_ONLY])
def test_a_rollback_starts_nothing_anew_and_loses_nothing(
    name: str, stripped: dict[str, Document], rolled_back: dict[str, Document]
) -> None:
    _assert_nothing_started_or_stopped(stripped[name], rolled_back[name])
    _assert_nothing_lost(_status(stripped[name]), rolled_back[name])


@pytest.mark.parametrize("name", [*BOTH, *NEW_ONLY])
def test_a_second_upgrade_starts_nothing_anew_and_loses_nothing(
    name: str, rolled_back: dict[str, Document], upgraded_again: dict[str, Document]
) -> None:
    _assert_nothing_started_or_stopped(rolled_back[name], upgraded_again[name])
    _assert_nothing_lost(_status(rolled_back[name]), upgraded_again[name])


@pytest.mark.parametrize("name", BOTH)
def test_after_an_upgrade_a_run_ends_as_it_would_have(
    name: str, by_old: dict[str, Document], upgraded: dict[str, Document]
) -> None:
    before, end = _status(by_old[name]), upgraded[name]["end"]["status"]
    assert end["phase"] == ("Succeeded" if before["phase"] in UNFINISHED else before["phase"])


@pytest.mark.parametrize("name", [*BOTH, *NEW_ONLY])
def test_after_a_rollback_a_run_ends_as_it_would_have(
    name: str, stripped: dict[str, Document], rolled_back: dict[str, Document]
) -> None:
    before, end = _status(stripped[name]), rolled_back[name]["end"]["status"]
    assert end["phase"] == ("Succeeded" if before["phase"] in UNFINISHED else before["phase"])


def test_a_rollback_during_the_check_goes_on_with_the_step_after_it(
    stripped: dict[str, Document], rolled_back: dict[str, Document]
) -> None:
    after = rolled_back["check"]
    assert after["writes"] == [
        ["create", "ConfigMap", "dissolve-trim-run"],
        ["create", "Job", "dissolve-trim"],
    ]
    assert after["end"]["status"]["phase"] == "Succeeded"


def test_the_pinned_operator_reads_every_field_of_a_status_of_this_one(
    old: Checkout, stripped: dict[str, Document]
) -> None:
    statuses = {name: _status(cluster) for name, cluster in stripped.items()}
    assert old.ask("unreadable", statuses) == {name: [] for name in statuses}


@pytest.mark.parametrize(
    ("name", "at_work"),
    [
        ("trim", "trim"),
        ("captions", "captions"),
        ("videos", "videos"),
        ("training", "train"),
        ("second attempt", "train"),
        ("sampling", "sample"),
    ],
)
def test_the_step_that_is_at_work_follows_from_a_status_of_the_pinned_operator(
    name: str, at_work: str, by_old: dict[str, Document]
) -> None:
    state = wire.read(wire.parse_status(copy.deepcopy(_status(by_old[name]))))
    assert [step.name for step in state.steps.values() if step.current is not None] == [at_work]
    done = [step.name for step in state.steps.values() if step.completed]
    assert done == list(ORDER[1 : ORDER.index(at_work)])


def test_an_api_server_with_this_crd_adds_no_field_that_the_pinned_operator_would_stumble_over(
    project: Path, old: Checkout
) -> None:
    """It is the CRD that an upgrade changes first, and the pinned operator refuses what it does not know."""
    assert list(filled_in(crd_schema(project), crd_schema(old.root))) == []
