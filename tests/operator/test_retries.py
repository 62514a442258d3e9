"""Failed attempts of every step: tried again, counted, waited for, given up."""

import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_api.runfile import STAGES
from mochi_operator.cluster import CONFIGMAPS, JOBS, PODS, PYTORCHJOBS, RefusedError
from mochi_operator.timestamps import render
from tests.operator.world import NAMESPACE, End, World, failing, lora, well

JOBS_OF_STEPS = [step for step in STAGES if step != "train"]


def once(step: str, end: End | None):
    """The first attempt of a step ends otherwise."""
    return lambda stage, attempt, rank: end if (stage, attempt) == (step, 1) else well(stage, attempt, rank)


def stuck(step: str, attempts: int = 1):
    """The first attempts of a step run until somebody ends them."""
    return lambda stage, attempt, rank: (
        None if stage == step and attempt <= attempts else well(stage, attempt, rank)
    )


@pytest.mark.parametrize("step", STAGES)
async def test_a_failure_that_may_pass_is_tried_again_in_every_step(step):
    world = World()
    world.script = failing(Reason.STORAGE_ERROR, 6, until=3, step=step)
    await world.until(lambda world: world.phase == "Succeeded", turns=100)
    assert world.attempts(step) == [Reason.STORAGE_ERROR] * 2 + [Reason.COMPLETED]


def run_files(world: World) -> list[str]:
    return [name.removesuffix("-run") for name in world.cluster.names("ConfigMap")]


@pytest.mark.parametrize("step", STAGES)
async def test_no_run_file_outlives_its_attempt(step):
    """The first attempt fails, somebody deletes what runs the second; neither leaves its run file."""
    world = World(lora(runPolicy={"retryBackoff": {"initialSeconds": 0}}))
    world.script = lambda stage, attempt, rank: (
        None
        if (stage, attempt) == (step, 2)
        else failing(Reason.STORAGE_ERROR, 6, until=2, step=step)(stage, attempt, rank)
    )
    kind = PYTORCHJOBS if step == "train" else JOBS
    first, second, third = (
        [f"dissolve-a{n}" for n in (1, 2, 3)] if step == "train" else [_job(step, n) for n in (1, 2, 3)]
    )
    await world.until(lambda world: second in run_files(world))
    assert first not in run_files(world)
    await world.until(lambda world: any(_runs(pod) for pod in world.pods(second)))
    world.cluster.remove(kind, NAMESPACE, second)
    await world.until(lambda world: world.phase == "Succeeded")
    assert {first, second, third} & set(run_files(world)) == {third}


async def test_a_run_file_that_may_not_be_deleted_holds_up_nothing():
    world = World(lora(runPolicy={"retryBackoff": {"initialSeconds": 0}}))
    world.script = failing(Reason.STORAGE_ERROR, 6, until=2)
    world.cluster.refuse_delete = lambda kind, name: (
        RefusedError("no", cause="admission", code=403) if kind is CONFIGMAPS else None
    )
    await world.until(lambda world: world.phase == "Succeeded")
    assert {"dissolve-a1", "dissolve-a2"} <= set(run_files(world))


async def test_a_foreign_config_map_of_that_name_stays():
    world = World(lora(runPolicy={"retryBackoff": {"initialSeconds": 0}}))
    world.script = stuck("train")
    await world.until(lambda world: any(_runs(pod) for pod in world.pods("dissolve-a1")))
    world.cluster.one("ConfigMap", "dissolve-a1-run")["metadata"]["ownerReferences"] = []
    world.end(world.pods("dissolve-a1")[0], End(6, Outcome(reason=Reason.STORAGE_ERROR)))
    await world.until(lambda world: world.phase == "Succeeded")
    assert "dissolve-a1" in run_files(world)


@pytest.mark.parametrize("step", STAGES)
async def test_the_wait_between_two_attempts_doubles(step):
    world = World()
    world.script = failing(Reason.STORAGE_ERROR, 6, until=3, step=step)
    starts: dict[str, float] = {}

    def note(world: World) -> bool:
        for kind in ("Job", "PyTorchJob"):
            for name in world.cluster.names(kind):
                starts.setdefault(name, world.clock.now.timestamp())
        return world.phase == "Succeeded"

    await world.until(note, turns=400, seconds=1)
    names = ["dissolve-a1", "dissolve-a2", "dissolve-a3"]
    if step != "train":
        names = [f"dissolve-{step}", f"dissolve-{step}-2", f"dissolve-{step}-3"]
    first, second, third = (starts[name] for name in names)
    assert second - first == pytest.approx(30, abs=8)
    assert third - second == pytest.approx(60, abs=8)


@pytest.mark.parametrize("step", [step for step in STAGES if step != "sample"])
async def test_a_step_without_an_attempt_left_fails_the_run_and_does_not_promise_another(step):
    world = World(lora(runPolicy={"backoffLimit": 1}))
    world.script = failing(Reason.STORAGE_ERROR, 6, until=99, step=step)
    await world.until(lambda world: world.phase == "Failed")
    assert world.attempts(step) == [Reason.STORAGE_ERROR] * 2
    message = world.condition("Failed")["message"]
    assert "no attempt is left (runPolicy.backoffLimit = 1)" in message
    assert "again" not in message
    assert all(_over(job) for kind in ("Job", "PyTorchJob") for job in world.cluster.all(kind))


@pytest.mark.parametrize("step", [step for step in STAGES if step != "sample"])
async def test_a_failure_that_no_attempt_can_mend_is_tried_once_in_every_step(step):
    world = World()
    world.script = failing(Reason.ACCESS_DENIED, 5, until=99, step=step)
    await world.until(lambda world: world.phase == "Failed")
    assert world.attempts(step) == [Reason.ACCESS_DENIED]
    assert "correct the S3 credentials" in world.condition("Failed")["message"]


@pytest.mark.parametrize(
    ("reason", "code", "attempts"), [(Reason.STORAGE_ERROR, 6, 4), (Reason.OUT_OF_MEMORY, 7, 1)]
)
async def test_samples_that_fail_leave_the_run_succeeded_and_a_condition(reason, code, attempts):
    world = World()
    world.script = failing(reason, code, until=99, step="sample")
    await world.until(lambda world: world.phase in ("Succeeded", "Failed"), turns=200)
    assert world.phase == "Succeeded"
    sampled = world.condition("Sampled")
    assert (sampled["status"], sampled["reason"]) == ("False", reason)
    assert world.attempts("sample") == [reason] * attempts
    assert world.condition("Failed")["status"] == "False"
    assert "the samples could not be made" in world.condition("Succeeded")["message"]
    assert world.status["artifacts"]["loraURI"]


async def test_reasons_that_the_policy_leaves_out_are_not_tried_again():
    world = World(lora(runPolicy={"retryOn": ["Preempted"]}))
    world.script = failing(Reason.STORAGE_ERROR, 6, until=99)
    await world.until(lambda world: world.phase == "Failed")
    assert world.attempts("train") == [Reason.STORAGE_ERROR]
    assert "no further attempt is made after StorageError" in world.condition("Failed")["message"]


async def test_between_two_attempts_the_line_for_people_says_why_the_last_one_failed():
    world = World()
    world.script = failing(Reason.STORAGE_ERROR, 6, until=2, message="the store does not answer")
    await world.until(lambda world: world.phase == "Retrying")
    assert world.status["message"] == (
        "train: attempt 1 failed, another follows: dissolve-a1-worker-0: the store does not answer"
    )
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.status["message"] == ""


@pytest.mark.parametrize("step", STAGES)
async def test_preemption_does_not_spend_the_budget_of_any_step(step):
    world = World(lora(runPolicy={"backoffLimit": 0, "retryBackoff": {"initialSeconds": 0}}))
    world.script = stuck(step, attempts=5)
    for attempt in range(1, 6):
        child = f"dissolve-a{attempt}" if step == "train" else _job(step, attempt)
        await world.until(lambda world, child=child: any(_runs(pod) for pod in world.pods(child)))
        pod = world.pods(child)[0]
        world.around.stop(
            pod, disruption="PreemptionByScheduler", message="preempted by a pod of more priority"
        )
        world.end(pod, End(143, Outcome(reason=Reason.PREEMPTED, message="stopped by SIGTERM")))
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts(step) == [Reason.PREEMPTED] * 5 + [Reason.COMPLETED]


@pytest.mark.parametrize(("gain", "phase"), [(4, "Succeeded"), (0, "Failed")])
async def test_progress_fills_the_budget_again(gain, phase):
    """Four attempts fail, each `gain` steps further than the last, with a budget of one."""
    world = World(lora(runPolicy={"backoffLimit": 1, "retryBackoff": {"initialSeconds": 0}}))
    world.script = lambda stage, attempt, rank: (
        End(6, Outcome(reason=Reason.STORAGE_ERROR, step=1 + attempt * gain))
        if stage == "train" and attempt < 5
        else well(stage, attempt, rank)
    )
    await world.until(lambda world: world.phase in ("Succeeded", "Failed"), turns=100)
    assert world.phase == phase


@pytest.mark.parametrize("step", STAGES)
async def test_a_finished_pod_that_is_gone_before_it_was_read_costs_one_attempt(step):
    """The operator is away when the step ends; a drain, or pod GC, removes the pod."""
    world = World()
    world.script = stuck(step)
    child = "dissolve-a1" if step == "train" else f"dissolve-{step}"
    await world.until(lambda world: any(_runs(pod) for pod in world.pods(child)))
    world.script = well
    for _ in range(3):
        world.step()
        world.clock.advance(60)
    kind = "PyTorchJob" if step == "train" else "Job"
    assert world.cluster.one(kind, child)["status"]["conditions"][0]["type"] in ("Complete", "Succeeded")
    for pod in world.pods(child):
        world.cluster.remove(PODS, NAMESPACE, pod["metadata"]["name"])
    world.restart()
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts(step) == [Reason.ARTIFACTS_MISSING, Reason.COMPLETED]


async def test_a_result_that_is_in_the_pod_is_taken_though_the_job_was_never_marked():
    """The controller is slow: the pod's word is enough."""
    world = World()
    world.script = stuck("trim")
    await world.until(lambda world: any(_runs(pod) for pod in world.pods("dissolve-trim")))
    world.end(world.pods("dissolve-trim")[0], well("trim", 1, 0))
    await world.turn()
    assert world.attempts("trim") == [Reason.COMPLETED]


@pytest.mark.parametrize("step", STAGES)
async def test_the_history_of_every_step_tells_when_and_why(step):
    world = World()
    end = End(6, Outcome(reason=Reason.STORAGE_ERROR, message="no route", step=4))
    world.script = once(step, end)
    await world.until(lambda world: world.phase == "Succeeded")
    entries = world.status["attempts"]
    if step != "train":
        entries = next(item for item in world.status["stages"] if item["name"] == step)["attempts"]
    assert [item["number"] for item in entries] == [2, 1]
    first = entries[1]
    assert (first["reason"], first["exitCode"]) == ("StorageError", 6)
    assert first["message"].endswith("no route")
    assert first["startTime"] <= first["endTime"] <= entries[0]["startTime"]
    assert entries[0]["endTime"] <= render(world.clock.now)


async def test_changes_of_the_policy_count_at_once():
    """A stage's limits are the operator's, so none is frozen into a Job."""
    world = World()
    world.script = stuck("trim")
    await world.until(lambda world: world.pods("dissolve-trim") != [])
    world.run["spec"]["runPolicy"] = {"activeDeadlineSeconds": 30}
    world.cluster.touch(world.run)
    world.clock.advance(60)
    await world.turn()
    assert world.condition("Failed")["reason"] == Reason.DEADLINE_EXCEEDED
    assert world.cluster.names("Job") == ["dissolve-check"]


async def test_a_training_deleted_while_its_pod_saves_goes_on_as_another_attempt():
    world = World(lora(runPolicy={"retryBackoff": {"initialSeconds": 0}}))
    world.script = stuck("train")
    world.cluster.collect_seconds = 1
    world.around.saving_seconds = 100
    await world.until(lambda world: world.phase == "Training")
    world.cluster.remove(PYTORCHJOBS, NAMESPACE, "dissolve-a1")
    gone: list[float] = []

    def note(world: World) -> bool:
        if not world.pods("dissolve-a1"):
            gone.append(world.clock.now.timestamp())
        if "dissolve-a2" in world.cluster.names("PyTorchJob"):
            assert gone, "two attempts at work at once"
        return world.phase == "Succeeded"

    await world.until(note, turns=100)
    assert world.attempts("train") == [Reason.BACKEND_DELETED, Reason.COMPLETED]


def _job(step: str, attempt: int) -> str:
    return f"dissolve-{step}" if attempt == 1 else f"dissolve-{step}-{attempt}"


def _runs(pod: dict) -> bool:
    return pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]


def _over(job: dict) -> bool:
    return bool(job.get("status", {}).get("conditions"))
