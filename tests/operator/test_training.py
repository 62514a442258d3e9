"""Attempts, deadlines, health and progress of the training."""

from datetime import timedelta

import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_api.pods import RetryBackoffSpec
from mochi_operator.steps.budget import backoff_seconds
from mochi_operator.timestamps import render
from tests.operator.fake_cluster import START
from tests.operator.world import End, World, failing, full, heartbeat, lora, well


def forever(stage, attempt, rank):
    return well(stage, attempt, rank) if stage != "train" else None


async def trained(world: World) -> World:
    world.script = forever
    await world.until(lambda world: world.phase == "Training")
    return world


async def test_attempts_follow_until_none_is_left():
    world = World(lora(runPolicy={"backoffLimit": 2, "retryBackoff": {"initialSeconds": 1}}))
    world.script = failing(Reason.COLLECTIVE_TIMEOUT, 9, until=99)
    await world.until(lambda world: world.phase == "Failed")
    assert [item["number"] for item in world.status["attempts"]] == [3, 2, 1]
    failed = world.condition("Failed")
    assert failed["reason"] == Reason.COLLECTIVE_TIMEOUT
    assert "no attempt is left (runPolicy.backoffLimit = 2)" in failed["message"]
    assert world.condition("Stalled")["status"] == "True"
    assert world.cluster.reasons().count("AttemptFailed") == 2


async def test_a_failure_that_no_attempt_can_mend_ends_the_run_at_once():
    world = World()
    world.script = failing(Reason.OUT_OF_MEMORY, 7, until=99, message="needs 90 GiB, has 80")
    await world.until(lambda world: world.phase == "Failed")
    assert len(world.status["attempts"]) == 1
    message = world.condition("Failed")["message"]
    assert "needs 90 GiB, has 80; no further attempt is made after OutOfMemory; use fewer frames" in message
    assert "tried again" not in message
    assert world.cluster.reasons()[-1] == "Failed"


async def test_the_history_keeps_ten_attempts():
    world = World(lora(runPolicy={"backoffLimit": 11, "retryBackoff": {"initialSeconds": 0}}))
    world.script = failing(Reason.STORAGE_ERROR, 6, until=12)
    await world.until(lambda world: world.phase == "Succeeded", turns=200)
    assert [item["number"] for item in world.status["attempts"]] == list(range(12, 2, -1))


@pytest.mark.parametrize(("failures", "seconds"), [(1, 30), (2, 60), (3, 120), (6, 900), (100, 900)])
def test_the_backoff_doubles_up_to_its_limit(failures, seconds):
    assert backoff_seconds(RetryBackoffSpec(), failures) == seconds


async def test_a_larger_backoff_limit_is_honoured_while_the_run_goes_on():
    world = World(lora(runPolicy={"backoffLimit": 0}))
    world.script = failing(Reason.STORAGE_ERROR, 6, until=2)
    await world.until(lambda world: world.pods("dissolve-a1") != [])
    world.run["spec"]["runPolicy"]["backoffLimit"] = 1
    world.run["metadata"]["generation"] = 2
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.status["observedGeneration"] == 2


async def test_nothing_that_moves_for_too_long_is_a_stall_and_tried_again():
    world = await trained(World(lora(runPolicy={"stallTimeoutSeconds": 60})))
    world.signs.answer = heartbeat(quiet_seconds=60)
    await world.turn()
    assert world.phase == "Training"
    world.signs.answer = heartbeat(quiet_seconds=61)
    await world.turn()
    attempt = world.status["attempts"][0]
    assert (attempt["reason"], attempt["lastStep"]) == ("Stalled", 5)
    assert "nothing has moved for more than 60 s while training, after step 5" in attempt["message"]
    assert world.phase == "Retrying"


async def test_ages_count_on_by_our_own_clock_between_two_signs():
    world = await trained(World(lora(runPolicy={"stallTimeoutSeconds": 60})))
    world.signs.answer = heartbeat(quiet_seconds=50)
    await world.turn()
    world.signs.frozen = True  # no newer answer has come, and none is missing yet
    world.clock.advance(11)
    await world.turn()
    assert world.attempts("train") == [Reason.STALLED]


async def test_the_result_of_rank_0_is_the_end_and_ranks_that_run_on_are_cleared_away():
    """Rank 0 stores the result last; a rank that was preempted at that moment, and made again, waits for nobody."""
    world = await trained(
        World(lora(mode="full", workers={"replicas": 2}, runPolicy={"stallTimeoutSeconds": 60}))
    )
    world.end(world.pods("dissolve-a1")[0], well("train", 1, 0))
    await world.turn()
    assert world.attempts("train") == [Reason.COMPLETED]
    world.clock.advance(16)
    await world.turn()
    assert world.cluster.names("PyTorchJob") == [], "its GPUs are free"
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("train") == [Reason.COMPLETED]


async def test_an_attempt_that_no_status_knows_is_in_the_history_of_a_run_that_ends_meanwhile():
    """The operator made it, was killed before it could write that, and came back after the deadline."""
    world = await trained(World(lora(runPolicy={"activeDeadlineSeconds": 3600})))
    world.run["status"] = {
        key: part for key, part in world.status.items() if key not in ("attempts", "training")
    }
    world.cluster.touch(world.run)
    world.restart()
    world.clock.advance(3601)
    await world.turn()
    assert world.condition("Failed")["reason"] == Reason.DEADLINE_EXCEEDED
    assert world.attempts("train") == [Reason.DEADLINE_EXCEEDED]
    assert world.cluster.names("PyTorchJob") == []


async def test_the_run_as_a_whole_has_a_deadline():
    world = await trained(World(lora(runPolicy={"activeDeadlineSeconds": 3600})))
    left = 3600 - (world.clock.now - START).total_seconds()
    world.clock.advance(left - 3)
    result = await world.turn()
    assert (world.phase, result.wake_seconds) == ("Training", 3)
    world.clock.advance(4)
    await world.turn()
    assert world.condition("Failed")["reason"] == Reason.DEADLINE_EXCEEDED
    assert "runPolicy.activeDeadlineSeconds = 3600" in world.condition("Failed")["message"]
    assert world.cluster.names("PyTorchJob") == []


async def test_progress_is_written_no_more_often_than_the_settings_say():
    world = await trained(World())
    world.signs.answer = heartbeat()
    await world.turn()
    world.signs.answer = heartbeat(done=6)
    world.clock.advance(29)
    await world.turn()
    assert world.status["training"]["step"] == 5
    world.clock.advance(1)
    await world.turn()
    training = world.status["training"]
    assert training["step"] == 6
    assert training["progressPercentage"] == 30
    assert training["estimatedRemainingSeconds"] == 28
    assert training["loss"] == "0.5"
    assert training["metrics"] == [
        {"name": "loss", "value": "0.5"},
        {"name": "gradNorm", "value": "1.25"},
        {"name": "stepSeconds", "value": "2"},
    ]


async def test_a_checkpoint_is_named():
    world = await trained(World())
    world.signs.answer = heartbeat(checkpoint_step=4, checkpoint_uri="s3://c/4", checkpoint_age_seconds=10)
    await world.turn()
    saved = render(world.clock.now - timedelta(seconds=10))
    assert world.status["checkpoints"] == {"latest": {"step": 4, "uri": "s3://c/4", "time": saved}}
    assert world.condition("CheckpointReady")["message"] == "step 4: s3://c/4"


@pytest.mark.parametrize("saved", [None, 4])
async def test_a_checkpoint_that_cannot_be_stored_is_told_while_it_lasts(saved):
    world = await trained(World())
    complete = {} if saved is None else {"checkpoint_step": saved, "checkpoint_uri": "s3://c/4"}
    for done in (6, 7):
        world.signs.answer = heartbeat(done=done, checkpoint_delay=f"s3://c refused, try {done}", **complete)
        world.clock.advance(30)
        await world.turn()
    ready = world.condition("CheckpointReady")
    assert (ready["status"], ready["reason"]) == ("False" if saved is None else "True", "CheckpointDelayed")
    assert ready["message"].startswith(
        "no checkpoint is complete; " if saved is None else "step 4: s3://c/4; "
    )
    assert ready["message"].endswith("s3://c refused, try 7")
    assert world.cluster.reasons().count("CheckpointDelayed") == 1
    world.signs.answer = heartbeat(done=8, checkpoint_step=8, checkpoint_uri="s3://c/8")
    world.clock.advance(30)
    await world.turn()
    ready = world.condition("CheckpointReady")
    assert (ready["status"], ready["reason"]) == ("True", "CheckpointSaved")


async def test_a_loss_that_is_not_a_number_is_unhealthy_and_said_once():
    world = await trained(World())
    world.signs.answer = heartbeat(loss=None, non_finite=2)
    await world.turn()
    await world.turn()
    healthy = world.condition("TrainingHealthy")
    assert (healthy["status"], healthy["reason"]) == ("False", Reason.NON_FINITE_LOSS)
    assert world.status["training"]["loss"] == "NaN"
    assert world.cluster.reasons().count(Reason.NON_FINITE_LOSS) == 1
    world.signs.answer = heartbeat(non_finite=2)
    world.clock.advance(30)
    await world.turn()
    assert world.condition("TrainingHealthy")["message"] == "2 steps were not finite"


async def test_a_loss_far_above_where_it_was_is_unhealthy_and_said_once():
    world = await trained(World())
    world.signs.answer = heartbeat(loss_ratio=2.5)
    await world.turn()
    world.clock.advance(30)
    world.signs.answer = heartbeat(loss_ratio=2.75, done=6)
    await world.turn()
    healthy = world.condition("TrainingHealthy")
    assert (healthy["status"], healthy["reason"]) == ("False", "Diverging")
    assert "is 2.75 times the lowest" in healthy["message"]
    assert world.cluster.reasons().count("Diverging") == 1
    world.signs.answer = heartbeat(loss_ratio=1.9, done=7)
    world.clock.advance(30)
    await world.turn()
    assert world.condition("TrainingHealthy")["status"] == "True"


async def test_the_loss_of_the_held_out_clips_is_among_the_numbers():
    world = await trained(World())
    world.signs.answer = heartbeat(held_out_loss=0.625)
    await world.turn()
    assert world.status["training"]["metrics"][-1] == {"name": "heldOutLoss", "value": "0.625"}


async def test_the_best_checkpoint_is_in_the_status_and_overfitting_is_said_once():
    world = await trained(World())
    world.signs.answer = heartbeat(best_step=4, best_held_out_loss=0.5)
    await world.turn()
    assert world.status["best"] == {"step": 4, "heldOutLoss": "0.5"}
    for done in (6, 7):
        world.signs.answer = heartbeat(best_step=4, best_held_out_loss=0.5, overfits_from_step=4, done=done)
        world.clock.advance(30)
        await world.turn()
    assert world.status["best"] == {"step": 4, "heldOutLoss": "0.5", "overfitsFromStep": 4}
    assert world.condition("TrainingHealthy")["status"] == "True"
    assert "overfits from step 4 on" in world.condition("TrainingHealthy")["message"]
    assert world.cluster.reasons().count("Overfitting") == 1
    world.restart()
    world.signs.answer = heartbeat(done=8)
    world.clock.advance(30)
    await world.turn()
    assert world.status["best"]["step"] == 4


async def test_the_time_of_transition_moves_with_the_status_only():
    world = await trained(World())
    before = world.condition("TrainingRunning")["lastTransitionTime"]
    world.clock.advance(100)
    world.signs.answer = heartbeat()
    await world.turn()
    assert world.condition("TrainingRunning")["lastTransitionTime"] == before
    assert world.condition("TrainingHealthy")["lastTransitionTime"] > before


async def test_a_failed_stage_names_its_reason_and_the_clips():
    world = World()
    result = {
        "items_total": 2,
        "items_failed": 2,
        "failures": [{"clip": "a.mp4", "message": "moov atom not found"}],
    }
    outcome = Outcome(reason=Reason.DATASET_REJECTED, message="2 of 2 clips failed", stage_result=result)
    world.script = lambda stage, attempt, rank: (
        End(4, outcome) if stage == "trim" else well(stage, attempt, rank)
    )
    await world.until(lambda world: world.phase == "Failed")
    assert world.condition("Preprocessed")["reason"] == Reason.DATASET_REJECTED
    assert (
        "trim: attempt 1: dissolve-trim-x7x7x: 2 of 2 clips failed; no further attempt is made after DatasetRejected; "
        "mend the clips" in world.condition("Failed")["message"]
    )
    stage = world.status["stages"][1]
    assert (stage["state"], stage["failures"][0]["clip"]) == ("Failed", "a.mp4")


async def test_what_fits_into_no_gpu_is_refused_before_anything_is_made():
    published = {"preset": "mochi-1", "source": {"s3": {"uri": "s3://models/mochi/"}}}
    clips = {"frames": 163, "width": 848, "height": 480}
    small = {"replicas": 8, "gpuProducts": ["NVIDIA-L40S"]}
    world = World(full(model=published, preprocessing=clips, workers=small))
    result = await world.turn()
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"], world.phase) == ("False", "InvalidSpec", "Failed")
    assert "at least 56.8 GiB free" in accepted["message"]
    assert "got NVIDIA-L40S with 44.0 GiB; what would fit: preprocessing.frames 103" in accepted["message"]
    assert (result.wake_seconds, world.status.get("resolved")) == (None, None)
    assert [write for write in world.cluster.writes if "configmap" in str(write).lower()] == []
    world.run["spec"]["workers"]["gpuProducts"] = ["NVIDIA-H200"]
    world.run["metadata"]["generation"] = 2
    await world.turn()
    assert world.condition("Accepted")["status"] == "True"
    assert world.status["resolved"]["predictedMemoryGiB"] == "56.8"


async def test_a_run_that_was_accepted_is_not_refused_for_its_memory_later():
    world = World(lora())
    await world.turn()
    world.run["spec"]["model"] = {"preset": "mochi-1", "source": {"s3": {"uri": "s3://models/mochi/"}}}
    world.run["spec"]["workers"] = {"gpuProducts": ["NVIDIA-L4"]}
    await world.turn()
    assert world.condition("Accepted")["status"] == "True"


async def test_an_unreadable_spec_is_said_and_left_alone():
    world = World({**lora(), "mode": "surprise"})
    result = await world.turn()
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"], world.phase) == ("False", "InvalidSpec", "Failed")
    assert "surprise" in accepted["message"]
    assert result.wake_seconds is None
    world.cluster.writes.clear()
    await world.turn()
    assert world.cluster.writes == []
    world.run["spec"]["mode"] = "lora"
    world.run["metadata"]["generation"] = 2
    await world.until(lambda world: world.phase == "Succeeded")


async def test_a_rule_that_spans_fields_is_checked_without_an_api_server_too():
    world = World(lora(preprocessing={"frames": 86}))
    await world.turn()
    assert "spec.preprocessing.frames" in world.condition("Accepted")["message"]


async def test_a_status_of_another_version_is_read_as_far_as_it_can_be():
    world = World()
    await world.until(lambda world: world.phase == "Training")
    world.run["status"]["fromTheFuture"] = {"x": 1}
    world.cluster.touch(world.run)
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.cluster.names("PyTorchJob") == ["dissolve-a1"]
