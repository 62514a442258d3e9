"""The cases of the state machine that must be right, by their numbers in the design."""

import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_api.runfile import STAGES
from mochi_operator import apply, names
from mochi_operator.cluster import JOBS, PODS, PYTORCHJOBS, RefusedError, StaleError
from mochi_operator.decide import decide
from tests.operator.fake_cluster import KilledError
from tests.operator.world import NAMESPACE, End, World, full, heartbeat, lora, well, with_settings


def foreign(name: str, kind: str = "Job") -> dict:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}}


def running(world: World) -> bool:
    return world.phase == "Training"


async def test_1_an_attempt_that_the_status_does_not_know_is_adopted():
    world = World()
    await world.until(lambda world: world.condition("Preprocessed")["reason"] != "Pending")
    for _ in range(40):
        world.step()
        world.clock.advance(5)
        before = len(world.cluster.all("PyTorchJob"))
        saved = dict(world.status)
        await world.turn()
        if len(world.cluster.all("PyTorchJob")) > before:
            break
    world.run["status"] = saved  # the operator died before it wrote the status
    world.cluster.touch(world.run)
    world.restart()
    uid = world.cluster.one("PyTorchJob", "dissolve-a1")["metadata"]["uid"]
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.cluster.names("PyTorchJob") == ["dissolve-a1"]
    assert world.cluster.one("PyTorchJob", "dissolve-a1")["metadata"]["uid"] == uid
    assert [item["number"] for item in world.status["attempts"]] == [1]


async def test_2_a_foreign_job_of_the_same_name_is_a_condition_and_is_not_touched():
    world = World()
    world.cluster.put(foreign("dissolve-check"))
    result = await world.turn()
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", Reason.NAME_CONFLICT)
    assert "Job dissolve-check: exists and does not belong to this run" in accepted["message"]
    assert world.condition("Stalled")["status"] == "True"
    assert result.wake_seconds
    assert "dissolve-check" in world.cluster.names("Job")
    await world.turn()
    assert world.cluster.reasons().count(Reason.NAME_CONFLICT) == 1


async def test_2_a_foreign_pytorchjob_stops_the_run_until_it_is_gone():
    world = World()
    world.cluster.put(foreign("dissolve-a1", "PyTorchJob"))
    await world.until(lambda world: world.condition("Accepted")["reason"] == Reason.NAME_CONFLICT)
    world.cluster.remove(PYTORCHJOBS, NAMESPACE, "dissolve-a1")
    await world.until(lambda world: world.phase == "Succeeded")


async def test_3_a_pytorchjob_deleted_by_hand_is_a_failed_attempt_and_tried_again():
    world = World()
    await world.until(running)
    world.cluster.remove(PYTORCHJOBS, NAMESPACE, "dissolve-a1")
    await world.until(lambda world: world.phase == "Retrying")
    assert world.status["attempts"][0]["reason"] == Reason.BACKEND_DELETED
    await world.until(lambda world: world.phase == "Succeeded")
    assert [item["reason"] for item in world.status["attempts"]] == ["Completed", "BackendDeleted"]


@pytest.mark.parametrize("step", ["check", "trim", "captions", "videos", "sample"])
async def test_3_a_stage_job_deleted_by_hand_is_a_failed_attempt_and_tried_again(step):
    world = World()
    world.script = lambda stage, attempt, rank: (
        None if (stage, attempt) == (step, 1) else well(stage, attempt, rank)
    )
    await world.until(lambda world: world.pods(f"dissolve-{step}") != [])
    world.cluster.remove(JOBS, NAMESPACE, f"dissolve-{step}")
    await world.turn()
    assert world.attempts(step) == [Reason.BACKEND_DELETED]
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts(step) == [Reason.BACKEND_DELETED, Reason.COMPLETED]
    assert f"dissolve-{step}-2" in world.cluster.names("Job")


async def test_4_without_the_pytorchjob_kind_nothing_starts_and_it_is_tried_again():
    world = World()
    world.cluster.absent.add("PyTorchJob")
    result = await world.turn()
    assert world.condition("Accepted")["reason"] == Reason.BACKEND_UNAVAILABLE
    assert world.condition("Stalled")["status"] == "False"
    assert (world.phase, result.wake_seconds) == ("Pending", 15)
    assert world.cluster.names("Job") == []
    world.cluster.absent.clear()
    await world.until(lambda world: world.phase == "Succeeded")


async def test_5_one_failed_rank_fails_the_attempt_and_the_next_starts_after_it_is_gone():
    world = World(full())
    world.script = lambda stage, attempt, rank: (
        well(stage, attempt, rank) if stage != "train" or attempt > 1 else None
    )
    await world.until(running)
    first = world.cluster.one("PyTorchJob", "dissolve-a1")
    outcome = Outcome(reason=Reason.STORAGE_ERROR, message="no route to the bucket", rank=1, step=6)
    world.end(world.pods("dissolve-a1")[1], End(6, outcome))
    await world.turn()
    assert world.phase == "Retrying"
    attempt = world.status["attempts"][0]
    assert (attempt["reason"], attempt["exitCode"], attempt["lastStep"]) == ("StorageError", 6, 6)
    assert attempt["message"] == "dissolve-a1-worker-1: no route to the bucket"
    assert first["metadata"]["name"] not in world.cluster.names("PyTorchJob")
    await world.turn()
    assert world.cluster.names("PyTorchJob") == [], "the backoff is 30 s"
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.cluster.names("PyTorchJob") == ["dissolve-a2"]


@pytest.mark.parametrize("step", ["check", "trim", "train"])
async def test_7_a_result_that_never_comes_fails_the_run_after_its_attempts(step):
    world = World(lora(runPolicy={"backoffLimit": 2}))
    world.script = lambda stage, attempt, rank: End(0) if stage == step else well(stage, attempt, rank)
    await world.until(lambda world: world.phase == "Failed")
    failed = world.condition("Failed")
    assert failed["reason"] == Reason.ARTIFACTS_MISSING
    child = names.child("dissolve", step, 3)
    assert f"{child} succeeded, but its pod left no readable result; no attempt is left" in failed["message"]
    assert world.attempts(step) == [Reason.ARTIFACTS_MISSING] * 3


@pytest.mark.parametrize("step", STAGES)
async def test_7_a_result_that_is_lost_once_is_made_again(step):
    world = World()
    world.script = lambda stage, attempt, rank: (
        End(0) if (stage, attempt) == (step, 1) else well(stage, attempt, rank)
    )
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts(step) == [Reason.ARTIFACTS_MISSING, Reason.COMPLETED]


async def test_8_children_of_a_deleted_run_of_the_same_name_go_first():
    world = World()
    await world.until(running)
    world.submit(uid="second-uid")  # deleted and applied again; the garbage collector is slow
    world.restart()
    world.script = lambda stage, attempt, rank: None
    await world.turn()
    assert world.cluster.names("Job") == []
    assert world.cluster.names("PyTorchJob") == []
    world.step()
    await world.until(lambda world: world.phase == "Preprocessing")
    assert {job["metadata"]["ownerReferences"][0]["uid"] for job in world.cluster.all("Job")} == {
        "second-uid"
    }
    run_file = world.cluster.one("ConfigMap", "dissolve-check-run")
    assert run_file["metadata"]["ownerReferences"][0]["uid"] == "second-uid"


async def test_10_a_running_child_is_not_touched_when_the_operator_has_new_defaults():
    world = World()
    await world.until(running)
    world.script = lambda stage, attempt, rank: None
    uid = world.cluster.one("PyTorchJob", "dissolve-a1")["metadata"]["uid"]
    with_settings(world, trainer_image="registry.example/mochi-trainer:2")
    world.cluster.writes.clear()
    await world.turn()
    assert world.cluster.one("PyTorchJob", "dissolve-a1")["metadata"]["uid"] == uid
    assert [write for write in world.cluster.writes if write[0] != "patch"] == []
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    sample = world.cluster.one("Job", "dissolve-sample")["spec"]["template"]["spec"]["containers"][0]
    assert sample["image"] == "registry.example/mochi-trainer:1", "one run has one image"


async def test_11_silence_of_rank_0_is_unknown_and_not_failure():
    world = World()
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != "train" else None
    world.signs.answer = heartbeat(done=3)
    await world.until(lambda world: world.phase == "Training")
    await world.turn()
    assert world.condition("TrainingHealthy")["status"] == "True"
    world.signs.answer = None
    for expected in ("True", "True", "Unknown"):
        await world.turn()
        assert world.condition("TrainingHealthy")["status"] == expected
    world.clock.advance(24 * 3600)
    await world.turn()
    assert world.phase == "Training"


async def test_14_the_slower_of_two_operators_writes_nothing():
    world = World()
    other = World()
    other.cluster = world.cluster
    other.clock = world.clock
    other.restart()
    snapshot_of_other = await other.gatherer.snapshot(other.key)
    await world.turn()
    jobs = world.cluster.names("Job")
    plan = decide(snapshot_of_other, other.backend)
    assert await apply.create(world.cluster, snapshot_of_other, plan.creates) == ()
    with pytest.raises(StaleError):
        await apply.finish(world.cluster, snapshot_of_other, plan)
    assert world.cluster.names("Job") == jobs
    assert world.cluster.reasons() == ["Accepted", "StageStarted"]


async def test_14_two_operators_in_turn_end_as_one_would():
    world, other = World(), World()
    other.cluster, other.clock = world.cluster, world.clock
    other.restart()
    for _ in range(60):
        await world.turn()
        await other.turn()
        world.step()
        world.clock.advance(5)
        if world.phase == "Succeeded":
            break
    assert world.phase == "Succeeded"
    assert world.cluster.names("PyTorchJob") == ["dissolve-a1"]
    assert world.cluster.reasons().count("AttemptStarted") == 1


def unlucky(stage: str, attempt: int, rank: int) -> End | None:
    """Trim, videos and the training fail once each."""
    if stage in ("trim", "videos", "train") and attempt == 1:
        return End(6, Outcome(reason=Reason.STORAGE_ERROR, message="no route", step=4))
    return well(stage, attempt, rank)


async def lived(world: World, turns: int = 160) -> None:
    """To its end, with a new operator after each kill."""
    for _ in range(turns):
        try:
            await world.turn()
        except KilledError:
            world.restart()
            continue
        if world.phase in ("Succeeded", "Failed"):
            return
        world.step()
        world.clock.advance(5)


async def test_killed_after_any_write_it_comes_to_the_same_end():
    """Every write of a run in which two stages and the training are tried again."""
    undisturbed = World()
    undisturbed.script = unlucky
    await lived(undisturbed)
    assert undisturbed.phase == "Succeeded"
    count = len(undisturbed.cluster.writes)
    assert count > 60
    for nth in range(1, count + 1):
        world = World()
        world.script = unlucky
        world.cluster.kill_after = nth
        await lived(world)
        assert world.phase == "Succeeded", f"killed after write {nth}"
        assert world.cluster.kill_after is None, f"write {nth} was made"
        for step in STAGES:
            assert world.attempts(step) == undisturbed.attempts(step), f"{step}, killed after write {nth}"
        for kind in ("Job", "PyTorchJob"):
            assert sorted(world.cluster.names(kind)) == sorted(undisturbed.cluster.names(kind)), (
                f"write {nth}"
            )


@pytest.mark.parametrize("nth", range(1, 6))
async def test_killed_while_it_gives_up_it_gives_up_for_the_same_reason(nth):
    world = World(lora(runPolicy={"preRunningDeadlineSeconds": 60}))
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != "train" else None
    await world.until(lambda world: world.pods("dissolve-a1") != [])
    pod = world.pods("dissolve-a1")[0]
    pod["status"] = {"phase": "Pending", "held": True}
    world.clock.advance(61)
    world.cluster.kill_after = nth
    for _ in range(5):
        try:
            await world.turn()
        except KilledError:
            world.restart()
    assert world.condition("Failed")["reason"] == Reason.DEADLINE_EXCEEDED
    assert world.cluster.names("PyTorchJob") == []


@pytest.mark.parametrize("turns", range(0, 26, 2))
async def test_a_second_pass_changes_nothing(turns):
    world = World()
    world.signs.answer = heartbeat(done=3)
    for _ in range(turns):
        await world.turn()
        world.step()
        world.clock.advance(5)
    # An attempt that has just ended, or a Job that has just been started, may take a second pass of its own.
    for _ in range(3):
        await world.turn()
    world.cluster.writes.clear()
    await world.turn()
    assert world.cluster.writes == []


async def test_an_object_the_api_server_will_not_have_fails_the_run():
    world = World()
    world.cluster.refuse = lambda manifest: (
        RefusedError("spec.template: Invalid value", cause="invalid", code=422)
        if manifest["kind"] == "PyTorchJob"
        else None
    )
    await world.until(lambda world: world.phase == "Failed")
    assert world.condition("Failed")["reason"] == Reason.POD_REFUSED
    assert (
        "PyTorchJob dissolve-a1 cannot be created: spec.template: Invalid value"
        in world.condition("Failed")["message"]
    )


async def test_a_refusal_that_may_pass_is_said_and_tried_again():
    world = World()
    world.cluster.refuse = lambda manifest: (
        RefusedError("exceeded quota: jobs", cause="quota", code=403) if manifest["kind"] == "Job" else None
    )
    await world.turn()
    assert "exceeded quota: jobs" in world.condition("Checked")["message"]
    assert world.condition("Accepted")["status"] == "True", "what is refused is the Job, not the run"
    assert world.condition("Failed")["status"] == "Unknown"
    world.cluster.refuse = lambda manifest: None
    await world.until(lambda world: world.phase == "Succeeded")


async def test_a_pod_killed_by_hand_lets_the_next_attempt_go_on():
    world = World()
    world.script = lambda stage, attempt, rank: (
        well(stage, attempt, rank) if stage != "train" or attempt > 1 else None
    )
    await world.until(running)
    pod = world.pods("dissolve-a1")[0]
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.end(pod, End(143, Outcome(reason=Reason.PREEMPTED, message="stopped by SIGTERM", step=9)))
    await world.until(lambda world: world.phase == "Succeeded")
    assert [item["reason"] for item in world.status["attempts"]] == ["Completed", "Preempted"]


async def test_the_next_attempt_waits_for_the_pods_of_the_last():
    world = World(lora(runPolicy={"retryBackoff": {"initialSeconds": 0}}))
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != "train" else None
    await world.until(running)
    pod = dict(world.pods("dissolve-a1")[0])
    world.cluster.remove(PYTORCHJOBS, NAMESPACE, "dissolve-a1")
    world.cluster.objects["Pod", NAMESPACE, pod["metadata"]["name"]] = pod  # it saves a checkpoint
    for _ in range(3):
        await world.turn()
    assert world.cluster.names("PyTorchJob") == []
    world.cluster.remove(PODS, NAMESPACE, pod["metadata"]["name"])
    await world.turn()
    assert world.cluster.names("PyTorchJob") == ["dissolve-a2"]


async def test_a_failed_attempt_whose_pod_is_gone_was_preempted():
    world = World()
    world.script = lambda stage, attempt, rank: (
        well(stage, attempt, rank) if stage != "train" or attempt > 1 else None
    )
    await world.until(running)
    world.cluster.remove(PODS, NAMESPACE, "dissolve-a1-worker-0")
    message = "PyTorchJob dissolve-a1 is failed because 1 Worker replica(s) failed."
    failed = {"type": "Failed", "status": "True", "reason": "PyTorchJobFailed", "message": message}
    world.cluster.one("PyTorchJob", "dissolve-a1")["status"] = {"conditions": [failed]}
    await world.turn()
    attempt = world.status["attempts"][0]
    assert attempt["reason"] == Reason.PREEMPTED
    assert attempt["message"].endswith("replica(s) failed, and its pod is gone: it was deleted or evicted")
    await world.until(lambda world: world.phase == "Succeeded")
