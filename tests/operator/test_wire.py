"""The door between status and state: nothing is lost by going through it, and an earlier version's is understood."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi_api.outcomes import Reason
from mochi_api.runfile import STAGES
from mochi_api.status import Preview, Previews
from mochi_operator import observe, wire
from mochi_operator.conditions import phase
from mochi_operator.state import STEPS, Attempt, Items, Numbers, State, Step, Trouble
from tests.operator.world import End, World, lora, well

MOMENTS = st.integers(0, 10**8).map(
    lambda seconds: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)


@st.composite
def attempts(draw, newest: int) -> tuple[Attempt, ...]:
    """A history: only the newest may run."""
    made = []
    for number in range(newest, max(0, newest - 4), -1):
        reason = draw(st.sampled_from(list(Reason)))
        runs = number == newest and draw(st.booleans())
        made.append(
            Attempt(
                number=number,
                child=f"c-{number}",
                started=draw(MOMENTS),
                ran=draw(st.none() | MOMENTS),
                ended=None if runs else draw(MOMENTS),
                completed=not runs and reason is Reason.COMPLETED,
                reason=None if runs else reason,
                message=draw(TEXTS),
                exit_code=draw(st.none() | st.integers(0, 255)),
                last_step=draw(st.integers(0, 10**6)),
            )
        )
    return tuple(made)


PREVIEWS = st.builds(
    Previews,
    step=st.integers(0, 99),
    asked=st.sampled_from(["", "now"]),
    made=st.lists(st.builds(Preview, step=st.integers(0, 99), uri=st.just("s3://a/b")), max_size=3),
)


@st.composite
def states(draw) -> State:
    steps = {}
    for name in STEPS:
        history = draw(attempts(draw(st.integers(0, 5))))
        done = bool(history) and history[0].completed
        trouble = Trouble(
            kind="image", message=draw(TEXTS), since=draw(MOMENTS), announced=draw(st.booleans())
        )
        before = [item.last_step for item in history if item.ended is not None]
        steps[name] = Step(
            name=name,
            attempts=history,
            spent=draw(st.integers(0, 9)) if history else 0,
            furthest=max([0, *before]) if name == "train" else 0,
            given_up=bool(history) and name != "train" and not done and history[0].ended is not None and draw(st.booleans()),
            not_before=draw(st.none() | MOMENTS) if history else None,
            trouble=draw(st.none() | st.just(trouble)),
            items=Items() if name == "train" or not history else Items(total=draw(st.integers(0, 99)), cache_key="k", message=draw(TEXTS)),
        )  # fmt: skip
    numbers = Numbers(step=draw(st.integers(0, 99)), loss="0.5", updated=draw(st.none() | MOMENTS))
    return State(
        result=draw(st.sampled_from(["", "Succeeded", "Failed"])),
        steps=steps,
        numbers=numbers if steps["train"].attempts else Numbers(),
        previews=draw(PREVIEWS),
    )


@settings(max_examples=40)
@given(states())
def test_what_is_written_is_read_back_and_written_the_same(state):
    written = wire.write(state, phase=phase(state), generation=3)
    again = wire.read(wire.parse_status(written))
    assert again == state
    assert wire.write(again, phase=phase(again), generation=3) == written


# Statuses as the version of commit cdebd36 wrote them.

DONE = {"state": "Succeeded", "cacheHit": False, "itemsTotal": 3, "itemsDone": 3, "itemsFailed": 0}
TIMES = {"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:20Z"}
RESOLVED = {
    "replicas": 1, "gpusPerPod": 0, "image": "registry.example/mochi-trainer:0", "warmupSteps": 2,
    "globalBatchSize": 1,
}  # fmt: skip


def stage(name: str, **changes) -> dict:
    return {
        "name": name,
        "jobName": f"dissolve-{name}",
        "cacheKey": f"key-{name}",
        **DONE,
        **TIMES,
        **changes,
    }


def true(*kinds: str) -> list[dict]:
    moment = "2026-01-01T00:00:00Z"
    return [
        {"type": kind, "status": "True", "reason": "Completed", "lastTransitionTime": moment}
        for kind in kinds
    ]


def trained(number: int, reason: str = "") -> dict:
    return {
        "number": number, "backendName": f"dissolve-a{number}", "reason": reason, "message": reason, "lastStep": 4,
        "startTime": "2026-01-01T00:01:00Z", **({"endTime": "2026-01-01T00:02:00Z"} if reason else {}),
    }  # fmt: skip


EMBEDDED = [stage("trim"), stage("captions"), stage("videos")]
OLD = {
    "just applied": {},
    "accepted": {"phase": "Pending", "resolved": RESOLVED, "conditions": true("Accepted")},
    "first stage": {
        "phase": "Preprocessing", "resolved": RESOLVED, "conditions": true("Accepted"),
        "stages": [stage("trim", state="Running", completionTime=None)],
    },
    "later stage": {
        "phase": "Preprocessing", "resolved": RESOLVED, "conditions": true("Accepted"),
        "stages": [stage("trim"), stage("captions", state="Running", completionTime=None)],
    },
    "training": {
        "phase": "Training", "resolved": RESOLVED, "conditions": true("Accepted", "Preprocessed", "TrainingRunning"),
        "stages": EMBEDDED, "attempts": [trained(2), trained(1, "StorageError")], "training": {"attempt": 2, "step": 4},
    },
    "retrying": {
        "phase": "Retrying", "resolved": RESOLVED, "conditions": true("Accepted", "Preprocessed"),
        "stages": EMBEDDED, "attempts": [trained(1, "StorageError")],
        "training": {"attempt": 1, "nextAttemptTime": "2026-01-01T00:02:30Z"},
    },
    "sampling": {
        "phase": "Sampling", "resolved": RESOLVED, "conditions": true("Accepted", "Preprocessed"),
        "stages": [*EMBEDDED, stage("sample", state="Running", completionTime=None)],
        "attempts": [trained(1, "Completed")], "training": {"attempt": 1, "step": 20},
    },
    "succeeded": {
        "phase": "Succeeded", "resolved": RESOLVED, "conditions": true("Accepted", "Preprocessed", "Succeeded"),
        "stages": [*EMBEDDED, stage("sample")], "attempts": [trained(1, "Completed")],
    },
    "failed": {
        "phase": "Failed", "resolved": RESOLVED, "conditions": true("Accepted", "Failed"),
        "stages": [stage("trim", state="Failed", message="clips")],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "at_work", "result"),
    [
        ("just applied", None, ""),
        ("accepted", None, ""),
        ("first stage", ("trim", 1, "dissolve-trim"), ""),
        ("later stage", ("captions", 1, "dissolve-captions"), ""),
        ("training", ("train", 2, "dissolve-a2"), ""),
        ("retrying", None, ""),
        ("sampling", ("sample", 1, "dissolve-sample"), ""),
        ("succeeded", None, "Succeeded"),
        ("failed", None, "Failed"),
    ],
)
def test_the_status_of_an_earlier_version_tells_the_same_step_and_attempt(name, at_work, result):
    state = wire.read(wire.parse_status(OLD[name]))
    running = [
        (step.name, step.current.number, step.current.child)
        for step in state.steps.values()
        if step.current is not None
    ]
    assert running == ([] if at_work is None else [at_work])
    assert state.result == result
    assert state.steps["train"].completed is (name in ("sampling", "succeeded"))


def as_of_old(world: World) -> None:
    """The status as the earlier version would have left it: without what this one added."""
    status = world.run["status"]
    status.pop("result", None)
    status["stages"] = [item for item in status["stages"] if item["name"] != "check"]
    for item in status["stages"]:
        for added in ("attempt", "spent", "attempts", "trouble", "nextAttemptTime"):
            item.pop(added, None)
    for part in (status.get("training") or {}, *status["attempts"]):
        for added in ("spent", "furthestStep", "trouble", "lastHeartbeatTime", "runningTime"):
            part.pop(added, None)
    status["conditions"] = [
        item for item in status["conditions"] if item["type"] not in ("Checked", "Sampled")
    ]
    world.cluster.touch(world.run)
    world.restart()


@pytest.mark.parametrize("step", [step for step in STAGES if step != "check"])
async def test_a_run_taken_over_from_an_earlier_version_restarts_nothing(step):
    world = World()
    child = "dissolve-a1" if step == "train" else f"dissolve-{step}"
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != step else None
    await world.until(lambda world: any(pod["status"]["phase"] == "Running" for pod in world.pods(child)))
    await world.turn()
    as_of_old(world)
    pods = sorted(world.cluster.names("Pod"))
    world.cluster.writes.clear()
    for _ in range(3):
        await world.turn()
    assert [write for write in world.cluster.writes if write[0] in ("create", "delete")] == []
    assert sorted(world.cluster.names("Pod")) == pods
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    assert all(world.attempts(name) == [Reason.COMPLETED] for name in STAGES if name != "check")
    assert "check" not in [item["name"] for item in world.status["stages"]], (
        "no check in the middle of the way"
    )


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_run_that_ended_under_an_earlier_version_stays_so(phase):
    world = World()
    if phase == "Failed":
        world.script = lambda stage, attempt, rank: None
        world.run["spec"]["runPolicy"] = {"activeDeadlineSeconds": 60}
    await world.until(lambda world: world.phase == phase)
    as_of_old(world)
    for _ in range(3):
        await world.turn()
        world.step()
    assert world.phase == phase
    assert [write for write in world.cluster.writes if write[0] == "create"][-1] != (
        "create",
        "Job",
        "dissolve-check-2",
    )


# Specs, outcomes and statuses of a newer version.


async def test_a_field_of_a_newer_spec_stops_no_run():
    world = World({**lora(), "fromTheFuture": {"x": 1}})
    world.run["spec"]["training"]["novel"] = True
    await world.until(lambda world: world.phase == "Succeeded")


async def test_an_accepted_run_whose_spec_cannot_be_read_any_more_is_left_alone():
    """A newer operator accepted it; this one must not fail what runs."""
    world = World()
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != "train" else None
    await world.until(lambda world: world.phase == "Training")
    world.run["spec"]["mode"] = "distill"
    world.cluster.touch(world.run)
    await world.turn()
    assert world.phase == "Training"
    assert world.cluster.names("PyTorchJob") == ["dissolve-a1"]
    assert "cannot read the spec" in world.condition("Reconciling")["message"]
    world.run["spec"]["mode"] = "lora"
    world.cluster.touch(world.run)
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("storage.s3.endpoint", "http://me:secret@minio:9000"),
        ("dataset.source", {"pvc": {"claimName": "clips", "path": "/videos/../dissolve"}}),
        ("workers.gpuResourceName", "requests.nvidia.com/gpu"),
        ("workers.resources", {"cpu": "8Gi", "memory": "0Gi"}),
        ("workers.podTemplate", {"labels": {"job-name": "x", "a..b": "-"}}),
        ("preprocessing.frames", 1000),
        ("training.learningRate", "7"),
    ],
)
@pytest.mark.parametrize("phase", ["Preprocessing", "Training", "Sampling"])
async def test_a_run_that_was_accepted_under_laxer_rules_goes_on(phase: str, place: str, value: Any):
    step = {"Preprocessing": "captions", "Training": "train", "Sampling": "sample"}[phase]
    world = World()
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != step else None
    await world.until(lambda world: world.phase == phase)
    *parents, last = place.split(".")
    section = world.run["spec"]
    for part in parents:
        section = section.setdefault(part, {})
    section[last] = value
    world.cluster.touch(world.run)
    world.restart()
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("train") == [Reason.COMPLETED]


async def test_a_run_whose_name_the_rules_of_today_refuse_goes_on():
    world = World()
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != "train" else None
    await world.until(lambda world: world.phase == "Training")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(observe, "name_problem", lambda name: f"{name} is no name any more")
        world.script = well
        await world.until(lambda world: world.phase == "Succeeded")


async def test_an_outcome_of_a_newer_trainer_is_read_as_far_as_it_can_be():
    world = World()
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != "train" else None
    await world.until(lambda world: world.phase == "Training")
    pod = world.pods("dissolve-a1")[0]
    world.end(pod, well("train", 1, 0))
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    ended["message"] = ended["message"].replace("{", '{"fromTheFuture":1,', 1)
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("train") == [Reason.COMPLETED]


async def test_an_image_that_does_not_know_the_check_is_excused_from_it():
    world = World()
    world.script = lambda stage, attempt, rank: End(2) if stage == "check" else well(stage, attempt, rank)
    await world.until(lambda world: world.phase == "Succeeded")
    checked = world.condition("Checked")
    assert (checked["status"], checked["reason"]) == ("Unknown", "Skipped")
    assert "StageSkipped" in world.cluster.reasons()
