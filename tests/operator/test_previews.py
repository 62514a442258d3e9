"""Samples during the training: when they are made, and that nothing else ever feels it."""

from __future__ import annotations

from typing import Any

import pytest

from mochi_api import identity
from mochi_api.outcomes import Outcome, Reason
from mochi_operator.cluster import AlreadyExistsError, RefusedError
from tests.operator.surroundings import PREVIEWED, Script
from tests.operator.world import End, World, heartbeat, lora, well

PREVIEW = "dissolve-preview"
CHECKPOINTS = {"steps": 20, "checkpoint": {"everySteps": 2}}


def previewing(every: int = 4, **sections: Any) -> dict[str, Any]:
    return lora(**{"training": CHECKPOINTS, "sampling": {"everySteps": every}, **sections})


def going_on(also: str = "") -> Script:
    """Training, and the step `also`, never end by themselves."""
    return lambda stage, attempt, rank: None if stage in ("train", also) else well(stage, attempt, rank)


async def training(spec: dict[str, Any] | None = None, *, also: str = "") -> World:
    world = World(spec)
    world.script = going_on(also)
    await world.until(lambda world: world.phase == "Training")
    return world


async def saved(world: World, step: int) -> None:
    """A checkpoint of this step is complete, and a pass has seen it."""
    world.signs.answer = heartbeat(done=step, checkpoint_step=step, checkpoint_uri=f"s3://c/{step}")
    world.clock.advance(30)
    await world.turn()


async def turns(world: World, count: int, seconds: float = 5) -> None:
    for _ in range(count):
        await world.turn()
        world.step()
        world.clock.advance(seconds)


def ask(world: World, value: str) -> None:
    """`kubectl annotate --overwrite`."""
    world.run["metadata"]["annotations"] = {identity.ANNOTATION_SAMPLE_NOW: value}
    world.cluster.touch(world.run)


def previews(world: World) -> list[str]:
    """The Jobs of previews that were made, in order."""
    made = [name for verb, kind, name in world.cluster.writes if (verb, kind) == ("create", "Job")]
    return [name for name in made if name.startswith(PREVIEW)]


def touched(world: World) -> list[tuple[str, str, str]]:
    """Writes to the run's other children."""
    return [
        write
        for write in world.cluster.writes
        if write[1] in ("Job", "PyTorchJob", "ConfigMap") and not write[2].startswith(PREVIEW)
    ]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([2], 0), ([2, 4], 1), ([2, 4, 6], 1), ([6], 1), ([6, 8], 2), ([4, 8, 12], 3), ([20], 0)],
    ids=str,
)
async def test_each_multiple_has_samples_of_the_first_checkpoint_at_or_after_it(steps, expected):
    world = await training(previewing())
    for step in steps:
        await saved(world, step)
        await turns(world, 5)
    assert len(previews(world)) == expected


async def test_none_are_made_unasked():
    world = await training(lora(training=CHECKPOINTS))
    for step in (2, 4, 8, 16):
        await saved(world, step)
        await turns(world, 3)
    assert previews(world) == []
    assert "previews" not in world.status
    assert [stage["name"] for stage in world.status["stages"]] == ["check", "trim", "captions", "videos"]


async def test_the_status_and_an_event_name_them_and_the_run_ends_as_ever():
    world = await training(previewing())
    await saved(world, PREVIEWED)
    await turns(world, 4)
    made = world.status["previews"]["made"]
    assert [(item["step"], item["uri"]) for item in made] == [(4, "s3://runs/dissolve/samples/step-000004")]
    sampled = world.condition("Sampled")
    assert (sampled["status"], sampled["reason"]) == ("False", "Previewed")
    assert any("samples of step 4" in str(event["message"]) for event in world.cluster.all("Event"))
    assert world.phase == "Training"
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.condition("Sampled")["status"] == "True"
    assert world.status["artifacts"]["sampleURIs"] == ["s3://runs/dissolve/a.mp4"]


async def test_one_pod_at_a_time_and_the_next_takes_the_newest_checkpoint():
    world = await training(previewing(), also="preview")
    for step in (4, 8, 12):
        await saved(world, step)
        await turns(world, 3)
    assert previews(world) == [PREVIEW]
    world.script = going_on()
    await turns(world, 9)
    assert previews(world) == [PREVIEW, f"{PREVIEW}-2"], "of 8 and 12 only the newest"
    assert world.attempts("preview") == [Reason.COMPLETED, Reason.COMPLETED]


async def test_the_annotation_makes_them_at_once_and_each_value_once():
    world = await training(lora(training=CHECKPOINTS))
    await saved(world, 2)
    ask(world, "2026-11-30T10:00")
    await turns(world, 6)
    assert previews(world) == [PREVIEW]
    assert world.status["previews"]["asked"] == "2026-11-30T10:00"
    await saved(world, 6)
    await turns(world, 3)
    assert previews(world) == [PREVIEW], "the same value is no new wish"
    ask(world, "again")
    await turns(world, 6)
    assert previews(world) == [PREVIEW, f"{PREVIEW}-2"]


async def test_the_annotation_waits_for_the_first_checkpoint_and_says_so():
    world = World(lora(training=CHECKPOINTS))
    world.script = going_on()
    ask(world, "now")
    await world.until(lambda world: world.phase == "Training")
    await turns(world, 4)
    assert (
        world.condition("Sampled")["message"]
        == "sample-now 'now' waits for the first checkpoint of the training"
    )
    assert world.cluster.reasons().count("SamplesWait") == 1
    assert previews(world) == []
    await saved(world, 2)
    await turns(world, 4)
    assert previews(world) == [PREVIEW]


@pytest.mark.parametrize("told", [PREVIEWED, PREVIEWED - 2], ids=["known", "newer than the status knows"])
async def test_samples_that_are_there_are_named_instead_of_made_again(told):
    """A pod finds what is in the store by then; the status may not know of it yet."""
    world = await training(previewing(every=2))
    await saved(world, told)
    await turns(world, 5)
    ask(world, "now")
    await turns(world, 3)
    assert previews(world) == [PREVIEW]
    assert world.cluster.reasons().count("SamplesThere") == 1
    assert world.status["previews"]["asked"] == "now"


async def test_a_failure_is_tried_again_and_then_given_up_and_the_training_never_feels_it():
    world = await training(previewing(runPolicy={"backoffLimit": 1, "retryBackoff": {"initialSeconds": 1}}))
    before = touched(world)

    def failing(stage: str, attempt: int, rank: int) -> End | None:
        if stage == "preview":
            return End(6, Outcome(reason=Reason.STORAGE_ERROR, message="no answer"))
        return going_on()(stage, attempt, rank)

    world.script = failing
    await saved(world, 4)
    await turns(world, 12)
    assert world.attempts("preview") == [Reason.STORAGE_ERROR, Reason.STORAGE_ERROR]
    await saved(world, 8)
    await turns(world, 6)
    assert len(previews(world)) == 2, "given up: the schedule asks no more"
    assert world.phase == "Training"
    assert world.attempts("train") == [""]
    assert touched(world) == before
    assert world.status["message"] == ""
    ask(world, "mended")
    world.script = going_on()
    await turns(world, 8)
    assert world.attempts("preview")[2:] == [Reason.COMPLETED]
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")


async def test_an_image_that_does_not_know_the_step_is_asked_once():
    world = await training(previewing())
    world.script = lambda stage, attempt, rank: (
        End(2) if stage == "preview" else going_on()(stage, attempt, rank)
    )
    for step in (4, 8, 12):
        await saved(world, step)
        await turns(world, 4)
    assert previews(world) == [PREVIEW]
    assert "does not know preview" in world.condition("Sampled")["message"]
    assert world.phase == "Training"


async def test_the_end_of_the_training_takes_the_pod_away_in_the_same_pass():
    world = await training(previewing(), also="preview")
    await saved(world, 4)
    await turns(world, 3)
    assert world.pods(PREVIEW) != []
    world.end(world.pods("dissolve-a1")[0], well("train", 1, 0))
    await world.turn()
    assert PREVIEW not in world.cluster.names("Job")
    assert "dissolve-sample" in world.cluster.names("Job"), "and nothing waits for that"
    stage = next(item for item in world.status["stages"] if item["name"] == "preview")
    assert (stage["state"], stage["attempts"][0]["reason"]) == ("Pending", Reason.PREEMPTED)
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")


async def test_a_training_that_starts_anew_has_its_gpu_first():
    """The pod that waits for a GPU would get the one that the training has just left."""
    world = await training(previewing(runPolicy={"retryBackoff": {"initialSeconds": 1}}), also="preview")
    await saved(world, 4)
    await turns(world, 3)
    world.end(world.pods("dissolve-a1")[0], End(143, Outcome(reason=Reason.PREEMPTED, message="asked")))
    await world.turn()
    assert PREVIEW not in world.cluster.names("Job")
    assert world.attempts("preview") == [Reason.PREEMPTED]
    await world.until(lambda world: world.phase == "Training")
    await turns(world, 6)
    assert previews(world) == [PREVIEW, f"{PREVIEW}-2"], "it is made when the training runs again"


@pytest.mark.parametrize(
    "error",
    [
        RefusedError("exceeded quota", cause="quota", code=403),
        AlreadyExistsError("taken"),
        RefusedError("no", cause="invalid", code=422),
    ],
    ids=lambda error: str(error),
)
async def test_a_pod_that_cannot_be_made_is_told_of_the_samples_alone(error):
    world = await training(previewing())
    before = touched(world)
    if isinstance(error, AlreadyExistsError):
        foreign = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": PREVIEW, "namespace": "videos"},
        }
        world.cluster.put(foreign)
    else:
        world.cluster.refuse = lambda made: error if made["metadata"]["name"] == PREVIEW else None
    await saved(world, 4)
    await turns(world, 12, seconds=20)
    assert PREVIEW in world.condition("Sampled")["message"]
    assert (world.condition("Accepted")["status"], world.condition("Stalled")["status"]) == ("True", "False")
    assert world.status["message"] == ""
    assert world.phase == "Training"
    assert touched(world) == before
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded", seconds=20)


async def test_a_preview_that_hangs_is_found_by_its_own_signs():
    world = await training(previewing(runPolicy={"stallTimeoutSeconds": 60}), also="preview")
    await saved(world, 4)
    await turns(world, 3)
    world.signs.beside = heartbeat(activity="working", quiet_seconds=61)
    await world.turn()
    assert world.attempts("preview") == [Reason.STALLED]
    assert world.attempts("train") == [""]


def run_files(world: World) -> list[str]:
    """The run files of previews that lie in the namespace."""
    return [name for name in world.cluster.names("ConfigMap") if name.startswith(PREVIEW)]


async def test_of_many_previews_one_run_file_is_left():
    world = await training(previewing())
    for step in (4, 8, 12):
        await saved(world, step)
        await turns(world, 6)
    assert previews(world) == [PREVIEW, f"{PREVIEW}-2", f"{PREVIEW}-3"]
    assert run_files(world) == [f"{PREVIEW}-3-run"]


async def test_the_run_file_of_one_that_is_taken_away_goes_with_its_pod():
    world = await training(previewing(), also="preview")
    await saved(world, 4)
    await turns(world, 3)
    assert run_files(world) == [f"{PREVIEW}-run"]
    world.end(world.pods("dissolve-a1")[0], well("train", 1, 0))
    await world.turn()
    assert (world.cluster.names("Job").count(PREVIEW), run_files(world)) == (0, [])


async def test_a_run_that_fails_takes_its_preview_along():
    world = await training(previewing(), also="preview")
    await saved(world, 4)
    await turns(world, 3)
    world.end(world.pods("dissolve-a1")[0], End(7, Outcome(reason=Reason.OUT_OF_MEMORY, message="too large")))
    await turns(world, 2)
    assert world.phase == "Failed"
    assert PREVIEW not in world.cluster.names("Job")
    assert run_files(world) == []
    assert world.attempts("preview") == [Reason.PREEMPTED], "not for what the training failed of"


async def test_an_operator_killed_between_the_pod_and_the_status_makes_no_second_one():
    world = await training(previewing(), also="preview")
    world.signs.answer = heartbeat(done=4, checkpoint_step=4, checkpoint_uri="s3://c/4")
    world.clock.advance(30)
    await world.turn()
    forgotten = {key: part for key, part in world.status.items() if key != "previews"}
    forgotten["stages"] = [item for item in forgotten["stages"] if item["name"] != "preview"]
    world.run["status"] = forgotten
    world.cluster.touch(world.run)
    world.restart()
    world.signs.answer = heartbeat(done=8, checkpoint_step=8, checkpoint_uri="s3://c/8")
    await turns(world, 4)
    assert previews(world) == [PREVIEW]
    assert world.attempts("preview") == [""]


async def test_one_that_no_status_knows_is_adopted_though_nobody_asks_for_it_any_more():
    world = await training(lora(training=CHECKPOINTS), also="preview")
    ask(world, "now")
    await saved(world, 4)
    world.run["status"] = {
        **{key: part for key, part in world.status.items() if key != "previews"},
        "stages": [item for item in world.status["stages"] if item["name"] != "preview"],
    }
    world.run["metadata"]["annotations"] = {}
    world.cluster.touch(world.run)
    world.restart()
    await turns(world, 3)
    assert previews(world) == [PREVIEW]
    assert world.attempts("preview") == [""]


async def test_one_that_no_status_knows_is_in_the_history_when_the_training_ends():
    world = await training(previewing(), also="preview")
    await saved(world, 4)
    stages = [item for item in world.status["stages"] if item["name"] != "preview"]
    world.run["status"] = {**world.status, "stages": stages}
    world.cluster.touch(world.run)
    world.end(world.pods("dissolve-a1")[0], well("train", 1, 0))
    await world.turn()
    assert world.attempts("preview") == [Reason.PREEMPTED]
    assert PREVIEW not in world.cluster.names("Job")
