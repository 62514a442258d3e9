"""`helm upgrade` and `helm rollback` under runs in all phases on a real control plane, and pods of the other version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.sites import SECRET
from mochi_api.outcomes import ROWS, Reason
from tests.skew import harbour
from tests.skew.harbour import STANDIN, Document, Harbour, Moment, Version
from tests.skew.pinned import Checkout

pytestmark = pytest.mark.e2e

SOON = {"retryBackoff": {"initialSeconds": 1, "maxSeconds": 1}}
LATE = {"retryBackoff": {"initialSeconds": 3600, "maxSeconds": 3600}}


def _standin_spec(**sections: Any) -> Document:
    return {
        "mode": "lora",
        "model": {"preset": "nano"},
        "dataset": {"source": {"s3": {"uri": "s3://demo/clips/"}}},
        "storage": {"outputURI": "s3://demo/"},
        "preprocessing": {"frames": 7, "width": 64, "height": 64},
        "training": {"steps": 20},
        "runPolicy": SOON,
        **sections,
        "workers": {"image": STANDIN, **sections.get("workers", {})},
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """A run that the stand-in trainer keeps in one phase."""

    phase: str
    spec: Document
    orders: Mapping[tuple[str, int], str]
    end: str = "Succeeded"
    """How it ends once it is let go."""
    waits: bool = False
    """Whether it waits for what never comes, and is ended by its deadline."""


def _held(phase: str, step: str, attempt: int = 1, *, spec: Document | None = None) -> Fleet:
    """A run of which one attempt of one step runs on; attempts before it have failed."""
    failed = {(step, number): "fail 6 StorageError" for number in range(1, attempt)}
    return Fleet(phase=phase, spec=spec or _standin_spec(), orders={**failed, (step, attempt): "hold"})


def _waiting(phase: str, spec: Document) -> Fleet:
    """A run of which a pod waits for a GPU that no node has."""
    return Fleet(phase=phase, spec=spec, orders={}, end="Failed", waits=True)


def _failed(step: str) -> Fleet:
    return Fleet(
        phase="Failed", spec=_standin_spec(), orders={(step, 1): "fail 2 InvalidInput"}, end="Failed"
    )


FULL = _standin_spec(mode="full", workers={"replicas": 2})
BEFORE: Mapping[str, Fleet] = {
    **{f"trim-{n}": _held("Preprocessing", "trim") for n in (1, 2, 3)},
    **{f"captions-{n}": _held("Preprocessing", "captions") for n in (1, 2)},
    **{f"videos-{n}": _held("Preprocessing", "videos") for n in (1, 2)},
    **{f"train-{n}": _held("Training", "train") for n in (1, 2)},
    "train-full": _held("Training", "train", spec=FULL),
    **{f"again-{n}": _held("Training", "train", 2) for n in (1, 2)},
    **{f"sample-{n}": _held("Sampling", "sample") for n in (1, 2, 3)},
    **{
        f"retry-{n}": Fleet(
            phase="Retrying", spec=_standin_spec(runPolicy=LATE), orders={("train", 1): "fail 6 StorageError"},
            end="Failed", waits=True,
        )
        for n in (1, 2)
    },
    "gpu-captions": _waiting(
        "Preprocessing",
        _standin_spec(preprocessing={"frames": 7, "width": 64, "height": 64, "captions": {"gpus": 1}}),
    ),
    "gpu-train": _waiting("Starting", _standin_spec(workers={"gpusPerPod": 1})),
    "gpu-sample": _waiting("Sampling", _standin_spec(sampling={"gpus": 1})),
    **{f"done-{n}": Fleet(phase="Succeeded", spec=_standin_spec(), orders={}) for n in (1, 2)},
    "bad-trim": _failed("trim"),
    "bad-train": _failed("train"),
}  # fmt: skip
"""Runs that the pinned operator looks after when the upgrade comes: 20 that go on, 4 that have ended."""
RELEASED = ("trim-1", "captions-1", "videos-1", "train-full", "again-1", "sample-1")
"""Those that are let go under the operator of this commit."""
BETWEEN: Mapping[str, Fleet] = {
    "new-check": _held("Preprocessing", "check"),
    **{f"new-trim-again-{n}": _held("Preprocessing", "trim", 2) for n in (1, 2)},
    "new-videos": _held("Preprocessing", "videos"),
    "new-train": _held("Training", "train"),
    "new-again": _held("Training", "train", 2),
    "new-sample": _held("Sampling", "sample"),
}
"""Runs that begin under the operator of this commit, and see the rollback."""
CHECKING = "new-check"
"""The pinned operator knows no check: it goes on with the step after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """What was seen."""

    before_upgrade: Moment
    with_new_crd: Moment
    """The CRD is that of this commit already, the operator still the pinned one."""
    after_upgrade: Moment
    before_rollback: Moment
    after_rollback: Moment
    end: Moment
    seen: Mapping[str, list[str]]


@pytest.fixture(scope="module")
def story(project: Path, old: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The pinned version, an upgrade, a rollback, and the end of all runs."""
    with harbour.opened(project, old, tmp_path_factory.mktemp("skew")) as place:
        place.install(place.old)
        _submit(place, BEFORE)
        place.apply({"real-by-old": _real_spec(place, place.new)})
        _arrived(place, BEFORE)
        before_upgrade = _succeeded(place, "real-by-old")
        place.apply_crd(place.new)
        with_new_crd = _looked_at(place, "probe-of-crd")
        place.upgrade(place.new)
        after_upgrade = _looked_at(place, "probe-of-new")
        _release(place, {name: BEFORE[name] for name in RELEASED})
        _submit(place, BETWEEN)
        place.apply({"real-by-new": _real_spec(place, place.old)})
        _ended(place, {name: BEFORE[name] for name in RELEASED})
        _arrived(place, BETWEEN)
        before_rollback = _succeeded(place, "real-by-new")
        place.rollback()
        after_rollback = _looked_at(place, "probe-of-old")
        _release(place, {**BEFORE, **BETWEEN})
        return Story(
            before_upgrade=before_upgrade,
            with_new_crd=with_new_crd,
            after_upgrade=after_upgrade,
            before_rollback=before_rollback,
            after_rollback=after_rollback,
            end=_ended(place, {**BEFORE, **BETWEEN}),
            seen=place.seen,
        )


def _real_spec(place: Harbour, version: Version) -> Document:
    """A run of the real trainer of a version, as small as can be."""
    return {
        "mode": "lora",
        "model": {"preset": "nano"},
        "dataset": {"source": {"s3": {"uri": f"s3://{place.site.bucket.name}/clips/"}}},
        "storage": {
            "outputURI": f"s3://{place.site.bucket.name}/",
            "s3": {"endpoint": place.site.endpoint, "pathStyle": True, "credentialsSecretName": SECRET},
        },
        "preprocessing": {"frames": 7, "width": 64, "height": 48},
        "training": {"steps": 4, "lora": {"rank": 2, "alpha": 2}},
        "sampling": {"steps": 1, "prompts": ["a grey rabbit"]},
        "workers": {"image": version.trainer},
    }


def _submit(place: Harbour, fleet: Mapping[str, Fleet]) -> None:
    for name, run in fleet.items():
        for (step, attempt), text in run.orders.items():
            place.order(name, step, attempt, text)
    place.apply({name: run.spec for name, run in fleet.items()})


def _arrived(place: Harbour, fleet: Mapping[str, Fleet]) -> Moment:
    """Every run is where it is to be kept."""

    def missing(moment: Moment) -> str:
        return "; ".join(
            f"{name} is {moment.phase(name)}, not {run.phase}, or has no pod of its step"
            for name, run in fleet.items()
            if moment.phase(name) != run.phase or not _at_work(moment, name, run)
        )

    return place.until(missing)


def _at_work(moment: Moment, name: str, run: Fleet) -> bool:
    held = [place for place, text in run.orders.items() if text == "hold"]
    if not held:
        return True
    (step, attempt), status = held[0], moment.statuses[name]
    if step == "train":
        newest = next(iter(status.get("attempts", ())), {})
        return newest.get("number") == attempt and status["training"].get("step", 0) > 0
    job = f"{name}-{step}" if attempt == 1 else f"{name}-{step}-{attempt}"
    return any(pod.name.startswith(f"{job}-") for pod in moment.pods[name])


def _succeeded(place: Harbour, name: str) -> Moment:
    return place.until(
        lambda moment: "" if moment.phase(name) == "Succeeded" else f"{name} is {moment.phase(name)}"
    )


def _looked_at(place: Harbour, probe: str) -> Moment:
    """The operator that has just started has seen every run: it comes to a new one last."""
    place.order(probe, "trim", 1, "hold")
    place.apply({probe: _standin_spec()})
    return place.until(lambda moment: "" if moment.pods.get(probe) else f"{probe} has no pod")


def _release(place: Harbour, fleet: Mapping[str, Fleet]) -> None:
    for name, run in fleet.items():
        for (step, attempt), text in run.orders.items():
            if text == "hold":
                place.order(name, step, attempt, "")
    place.end_soon(*(name for name, run in fleet.items() if run.waits))


def _ended(place: Harbour, fleet: Mapping[str, Fleet]) -> Moment:
    def missing(moment: Moment) -> str:
        return "; ".join(
            f"{name} is {moment.phase(name)}, not {run.end}"
            for name, run in fleet.items()
            if moment.phase(name) != run.end
        )

    return place.until(missing)


UPGRADED = tuple(BEFORE)
ROLLED_BACK = tuple(name for name in (*BEFORE, *BETWEEN) if name not in (*RELEASED, CHECKING))


def _going(names: tuple[str, ...], moment: Moment) -> int:
    return sum(moment.phase(name) not in ("Succeeded", "Failed") for name in names)


def test_at_least_20_live_runs_see_the_upgrade_and_the_rollback(story: Story) -> None:
    assert _going(UPGRADED, story.before_upgrade) >= 20
    assert _going((*ROLLED_BACK, CHECKING), story.before_rollback) >= 20


@pytest.mark.parametrize("name", UPGRADED)
def test_the_pinned_operator_goes_on_under_a_crd_of_this_commit(story: Story, name: str) -> None:
    _assert_untouched(name, story.before_upgrade, story.with_new_crd)


@pytest.mark.parametrize("name", UPGRADED)
def test_the_operator_of_this_commit_has_looked_at_the_run(story: Story, name: str) -> None:
    """The pinned one knows no such condition."""
    assert "Sampled" in {item["type"] for item in story.after_upgrade.statuses[name]["conditions"]}


@pytest.mark.parametrize("name", UPGRADED)
def test_an_upgrade_restarts_no_pod_and_loses_no_status(story: Story, name: str) -> None:
    _assert_untouched(name, story.before_upgrade, story.after_upgrade)


@pytest.mark.parametrize("name", ROLLED_BACK)
def test_a_rollback_restarts_no_pod_and_loses_no_status(story: Story, name: str) -> None:
    _assert_untouched(name, story.before_rollback, story.after_rollback)


def _assert_untouched(name: str, before: Moment, after: Moment) -> None:
    assert after.pods[name] == before.pods[name]
    old, new = before.statuses[name], after.statuses[name]
    for kept in ("phase", "resolved", "artifacts"):
        assert new.get(kept) == old.get(kept), kept
    assert _checkpoint(new) == _checkpoint(old)
    assert _attempts(new) == _attempts(old)
    assert _stages(new) == _stages(old)
    assert _truths(new) == _truths(old)


def _checkpoint(status: Document) -> tuple[Any, ...]:
    """Without its time, which is told as an age."""
    latest = status.get("checkpoints", {}).get("latest", {})
    return latest.get("step"), latest.get("uri")


def _attempts(status: Document) -> list[tuple[Any, ...]]:
    fields = ("number", "backendName", "reason", "message", "exitCode", "startTime", "endTime")
    return [tuple(item.get(field) for field in fields) for item in status.get("attempts", ())]


def _stages(status: Document) -> dict[str, tuple[Any, ...]]:
    fields = ("state", "jobName", "cacheKey", "itemsTotal", "itemsDone", "startTime", "completionTime")
    return {item["name"]: tuple(item.get(field) for field in fields) for item in status.get("stages", ())}


BOTH_KNOW = ("Accepted", "Preprocessed", "TrainingRunning", "CheckpointReady", "Succeeded", "Failed")
"""Conditions of both versions that speak of how far the run is, not of the moment."""


def _truths(status: Document) -> dict[str, str]:
    return {
        item["type"]: item["status"] for item in status.get("conditions", ()) if item["type"] in BOTH_KNOW
    }


RANK: Mapping[str, int] = {
    "": 0, "Pending": 0, "Preprocessing": 1, "Starting": 2, "Training": 2, "Sampling": 3, "Succeeded": 4, "Failed": 4,
}  # fmt: skip
"""How far a run is. Any step may be retried, so that Retrying says nothing of it."""


@pytest.mark.parametrize("name", [*BEFORE, *BETWEEN, "real-by-old", "real-by-new"])
def test_no_phase_ever_goes_back(story: Story, name: str) -> None:
    ranks = [RANK[phase] for phase in story.seen[name] if phase != "Retrying"]
    assert ranks == sorted(ranks), story.seen[name]


@pytest.mark.parametrize("name", [*BEFORE, *BETWEEN])
def test_every_run_ends_as_it_was_meant_to(story: Story, name: str) -> None:
    run = {**BEFORE, **BETWEEN}[name]
    status = story.end.statuses[name]
    assert status["phase"] == run.end
    if run.end == "Failed":
        reason = Reason.DEADLINE_EXCEEDED if run.waits else Reason.INVALID_INPUT
        assert _condition(status, "Failed")["reason"] == reason
        assert not ROWS[reason].retryable
    else:
        assert status["artifacts"]["loraURI" if run.spec["mode"] == "lora" else "weightsURI"]


def _condition(status: Document, kind: str) -> Document:
    found: Document = next(item for item in status["conditions"] if item["type"] == kind)
    return found


def test_the_pinned_operator_brings_a_run_of_this_trainer_to_its_end(story: Story) -> None:
    status = story.before_upgrade.statuses["real-by-old"]
    assert status["phase"] == "Succeeded"
    assert len(status["attempts"]) == 1


def test_this_operator_brings_a_run_of_the_pinned_trainer_to_its_end_without_the_check(story: Story) -> None:
    status = story.before_rollback.statuses["real-by-new"]
    assert status["phase"] == "Succeeded"
    assert len(status["attempts"]) == 1
    checked = _condition(status, "Checked")
    assert (checked["status"], checked["reason"]) == ("Unknown", "Skipped")
