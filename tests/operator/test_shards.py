"""Stages whose clips several pods share: one Indexed Job an attempt, judged as the gang of a training is."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mochi_api.outcomes import Outcome, Reason, StageResult
from mochi_api.rules import NAME_LIMIT
from mochi_api.runfile import PREPROCESSING, parse
from mochi_operator import names, observe
from mochi_operator.cluster import PODS
from mochi_operator.conditions import WAITING
from mochi_operator.snapshot import Family, leading
from mochi_operator.timestamps import render
from tests.operator.test_manifests import manifests, recipe
from tests.operator.world import NAMESPACE, End, World, heartbeat, lora, well

SHARDS = {"trim": 3, "captions": 2, "videos": 2}


def sharded(**sections):
    parts = {stage: {"shards": count} for stage, count in SHARDS.items()}
    return lora(preprocessing={"frames": 7, "width": 64, "height": 64, **parts}, **sections)


def until_ended(*ranks):
    """Shards of the first attempt of trim run on, but for these."""

    def script(stage, attempt, rank):
        held = (stage, attempt) == ("trim", 1) and rank not in ranks
        return None if held else well(stage, attempt, rank)

    return script


async def trimming(world: World, *ranks: int) -> World:
    """All shards of trim have started, and these have ended."""
    world.script = until_ended(*ranks)

    def begun(world: World) -> bool:
        phases = [pod["status"]["phase"] for pod in world.pods("dissolve-trim")]
        return len(phases) == 3 and phases.count("Succeeded") == len(ranks) and "Pending" not in phases

    await world.until(begun)
    await world.turn()
    return world


def trim(world: World):
    return next(item for item in world.status["stages"] if item["name"] == "trim")


@pytest.mark.parametrize("stage", PREPROCESSING)
def test_the_job_is_indexed_and_else_as_that_of_one_pod(stage):
    config, job = manifests(recipe(sharded(), stage))
    _, alone = manifests(recipe(lora(), stage))
    count = SHARDS[stage]
    indexed = {"completionMode": "Indexed", "completions": count, "parallelism": count}
    assert job["spec"] == {**alone["spec"], **indexed}
    assert job["metadata"] == alone["metadata"]
    section = getattr(parse(config["data"]["run.yaml"]).preprocessing, stage)
    assert section.shards == count


def test_the_host_names_of_all_shards_are_valid():
    """The API server refuses an Indexed Job whose pods would have longer ones: the Job's name and the highest number."""
    longest = names.child("n" * NAME_LIMIT, "captions", 99_999)
    assert len(f"{longest}-63") <= 63


async def test_a_run_with_shards_succeeds_with_the_results_of_the_first_ones():
    world = World(sharded())

    def script(stage, attempt, rank):
        if rank and stage in SHARDS:
            other = StageResult(cache_key="of another", items_total=9, items_done=9)
            return End(outcome=Outcome(reason=Reason.COMPLETED, rank=rank, stage_result=other))
        return well(stage, attempt, rank)

    world.script = script
    await world.until(lambda world: world.phase == "Succeeded")
    stages = {item["name"]: item for item in world.status["stages"]}
    for stage in PREPROCESSING:
        assert (stages[stage]["cacheKey"], stages[stage]["itemsDone"]) == (f"key-{stage}", 3)
        assert world.attempts(stage) == [Reason.COMPLETED]
    started = [event["message"] for event in world.cluster.all("Event") if event["reason"] == "StageStarted"]
    assert started[1:4] == [
        f"{name}: Job dissolve-{name} created with {SHARDS[name]} pods" for name in SHARDS
    ]


async def test_a_stage_is_over_when_its_last_shard_has_ended():
    world = await trimming(World(sharded()), 0, 1)
    assert world.attempts("trim") == [""]
    assert world.cluster.names("Job") == ["dissolve-check", "dissolve-trim"]
    world.script = well
    await world.until(lambda world: world.attempts("trim") == [Reason.COMPLETED])


@pytest.mark.parametrize("there", [True, False], ids=["a pod without a node", "a pod that a quota refuses"])
async def test_a_shard_that_has_not_begun_when_the_first_has_ended_is_not_waited_for(there):
    """It has nothing to do, and may wait for a place that the ended ones hold behind their sidecars."""
    world = World(sharded())
    world.around.sidecar = "istio-proxy"
    world.script = until_ended()
    await world.until(lambda world: len(world.pods("dissolve-trim")) == 3)
    if there:
        world.pods("dissolve-trim")[2]["status"] = {"phase": "Pending", "held": True}
    else:
        world.cluster.remove(PODS, NAMESPACE, "dissolve-trim-2-x7x7x")
    world.around.hold_controllers = True
    world.step()
    world.script = well
    await world.until(lambda world: world.attempts("trim") == [Reason.COMPLETED])
    world.around.hold_controllers = False
    await world.until(lambda world: world.phase == "Succeeded", turns=100)
    left = [job for job in world.cluster.all("Job") if not (job.get("status") or {}).get("conditions")]
    assert "dissolve-trim" not in [job["metadata"]["name"] for job in left], "its places are free"


async def test_the_result_is_kept_though_the_pod_that_left_it_is_collected_before_the_others_end():
    world = await trimming(World(sharded()), 0)
    world.cluster.remove(PODS, NAMESPACE, "dissolve-trim-0-x7x7x")
    world.restart()
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("trim") == [Reason.COMPLETED]
    assert (trim(world)["cacheKey"], trim(world)["itemsDone"]) == ("key-trim", 3)


async def test_without_a_result_of_the_first_the_attempt_is_made_again():
    world = World(sharded())

    def script(stage, attempt, rank):
        mute = (stage, attempt, rank) == ("trim", 1, 0)
        return End() if mute else well(stage, attempt, rank)

    world.script = script
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("trim") == [Reason.ARTIFACTS_MISSING, Reason.COMPLETED]


async def test_a_sidecar_that_runs_on_keeps_no_stage_from_its_end():
    world = World(sharded())
    world.around.sidecar = "istio-proxy"
    await world.until(lambda world: world.phase == "Succeeded", turns=100)
    assert [world.attempts(stage) for stage in PREPROCESSING] == [[Reason.COMPLETED]] * 3


@pytest.mark.parametrize("rank", range(3))
async def test_a_shard_that_fails_fails_the_attempt_whichever_it_is(rank):
    world = World(sharded(runPolicy={"backoffLimit": 1, "retryBackoff": {"initialSeconds": 0}}))

    def script(stage, attempt, place):
        if (stage, attempt) != ("trim", 1):
            return well(stage, attempt, place)
        outcome = Outcome(reason=Reason.STORAGE_ERROR, message="the bucket does not answer", rank=place)
        return End(6, outcome) if place == rank else None

    world.script = script
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("trim") == [Reason.STORAGE_ERROR, Reason.COMPLETED]
    entry = trim(world)["attempts"][-1]
    assert entry["message"] == f"dissolve-trim-{rank}-x7x7x: the bucket does not answer"
    assert trim(world)["jobName"] == "dissolve-trim-2"


@pytest.mark.parametrize("rank", [0, 2])
async def test_shards_that_the_cluster_takes_away_spend_no_budget(rank):
    world = await trimming(
        World(sharded(runPolicy={"backoffLimit": 0, "retryBackoff": {"initialSeconds": 0}}))
    )
    name = f"dissolve-trim-{rank}-x7x7x"
    world.around.stop(
        world.cluster.one("Pod", name),
        disruption="PreemptionByScheduler",
        message="default-scheduler: preempting",
    )
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("trim") == [Reason.PREEMPTED, Reason.COMPLETED]
    assert trim(world)["spent"] == 0


async def test_two_attempts_never_run_side_by_side():
    """The first shard fails; the others take their time to end."""
    world = await trimming(World(sharded(runPolicy={"retryBackoff": {"initialSeconds": 0}})))
    world.around.saving_seconds = 20
    world.cluster.collect_seconds = 1
    failed = Outcome(reason=Reason.STORAGE_ERROR, message="gone")
    world.end(world.pods("dissolve-trim")[0], End(6, failed))
    for _ in range(3):
        await world.turn()
        world.step()
        world.clock.advance(3)
    assert "the next attempt waits until dissolve-trim-1-x7x7x" in world.condition("Preprocessed")["message"]
    assert "dissolve-trim-2" not in world.cluster.names("Job")
    await world.until(lambda world: world.phase == "Succeeded")


async def test_shards_without_a_node_are_waited_for_and_told_while_the_others_work():
    world = World(sharded(runPolicy={"stallTimeoutSeconds": 60}))
    world.script = until_ended()
    await world.until(lambda world: len(world.pods("dissolve-trim")) == 3)
    late = world.pods("dissolve-trim")[2]
    message = "0/2 nodes: Insufficient gpu"
    unfit = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    late["status"] = {"phase": "Pending", "held": True, "conditions": [unfit]}
    world.step()
    world.signs.answer = heartbeat(activity="working", done=1, total=9)
    for _ in range(8):
        await world.turn()
        world.clock.advance(15)
    assert world.attempts("trim") == [""]
    told = world.condition("Preprocessed")
    assert (told["status"], told["reason"]) == ("False", WAITING)
    assert told["message"] == f"trim: 2 of 3 pods run: dissolve-trim-2-x7x7x: {message}"
    assert trim(world)["trouble"]["kind"] == "unschedulable"
    world.signs.answer = heartbeat(activity="working", done=1, total=9, quiet_seconds=61)
    await world.turn()
    assert world.attempts("trim") == [Reason.STALLED], "it may hold the place that the other waits for"


async def test_the_wait_of_all_shards_has_the_limit_of_the_policy():
    world = World(sharded(runPolicy={"preRunningDeadlineSeconds": 100}))
    world.script = until_ended()
    await world.until(lambda world: len(world.pods("dissolve-trim")) == 3)
    world.pods("dissolve-trim")[1]["status"] = {"phase": "Pending", "held": True}
    world.step()
    world.clock.advance(101)
    await world.turn()
    failed = world.condition("Failed")
    assert failed["reason"] == Reason.DEADLINE_EXCEEDED
    assert "runPolicy.preRunningDeadlineSeconds = 100: not up yet: dissolve-trim-1-x7x7x" in failed["message"]


async def test_the_count_of_the_first_shard_is_that_of_all_and_told_while_they_work():
    world = await trimming(World(sharded()))
    world.signs.answer = heartbeat(activity="working", done=5, total=9)
    await world.turn()
    assert (trim(world)["itemsDone"], trim(world)["itemsTotal"], trim(world)["state"]) == (5, 9, "Running")
    assert {target.pod for target in world.signs.targets} == {"dissolve-check-x7x7x", "dissolve-trim-0-x7x7x"}


async def test_a_shard_that_hangs_after_the_others_have_ended_is_a_stall():
    world = await trimming(World(sharded(runPolicy={"stallTimeoutSeconds": 60})), 0, 1)
    assert world.signs.targets[-1].pod == "dissolve-trim-2-x7x7x"
    world.signs.answer = heartbeat(activity="working", done=9, total=9, quiet_seconds=61)
    await world.turn()
    assert world.attempts("trim") == [Reason.STALLED]
    world.signs.answer = None
    await world.until(lambda world: world.phase == "Succeeded")


STATES = {
    "Pending": {"waiting": {"reason": "ContainerCreating"}},
    "Running": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    "Succeeded": {"terminated": {"exitCode": 0, "startedAt": "2026-01-01T00:00:00Z"}},
}


async def test_a_first_shard_for_which_the_others_leave_no_place_is_tried_again():
    """Behind sidecars the pods of the others stay, with their GPUs."""
    world = World(sharded(runPolicy={"stallTimeoutSeconds": 60, "retryBackoff": {"initialSeconds": 0}}))
    world.around.sidecar = "istio-proxy"
    world.script = until_ended()
    await world.until(lambda world: len(world.pods("dissolve-trim")) == 3)
    unfit = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "Insufficient gpu",
    }
    world.pods("dissolve-trim")[0]["status"] = {"phase": "Pending", "held": True, "conditions": [unfit]}
    world.script = well
    for _ in range(8):
        await world.turn()
        world.step()
        world.clock.advance(5)
    assert trim(world)["trouble"]["kind"] == "crowded"
    assert "Insufficient gpu" in world.condition("Preprocessed")["message"]
    assert "such as dissolve-trim-1-x7x7x" in world.condition("Preprocessed")["message"]
    await world.until(lambda world: world.phase == "Succeeded", turns=100)
    assert world.attempts("trim") == [Reason.STALLED, Reason.COMPLETED]


def of_rank(world: World, rank: int, age: int = 0, phase: str = "Running"):
    return observe.pod(
        {
            "metadata": {
                "name": f"p-{rank}", "uid": f"u{rank}-{age}", "annotations": {observe.COMPLETION_INDEX: str(rank)},
                "creationTimestamp": render(world.clock.now - timedelta(seconds=age)),
                "ownerReferences": [{"uid": "j", "controller": True}],
            },
            "status": {"phase": phase, "containerStatuses": [{"name": "mochi-trainer", "state": STATES[phase]}]},
        }
    )  # fmt: skip


def test_pods_are_in_the_order_of_their_numbers_and_of_two_of_one_number_the_newer_counts():
    world = World()
    pods = [of_rank(world, rank, age) for rank in (11, 2, 10, 0, 1) for age in (30, 5)]
    job = observe.child(
        {
            "kind": "Job", "metadata": {"name": "j", "uid": "j"},
            "spec": {"completionMode": "Indexed", "completions": 12}, "status": {"succeeded": 2},
        }
    )  # fmt: skip
    found = Family(pods=tuple(pods)).pods_of(job)
    assert [pod.uid for pod in found] == ["u0-5", "u1-5", "u2-5", "u10-5", "u11-5"]
    assert (job.pods, job.succeeded) == (12, 2)


@pytest.mark.parametrize(
    ("phases", "rank"),
    [
        ({0: "Running", 1: "Running"}, 0),
        ({0: "Succeeded", 1: "Running"}, 1),
        ({0: "Pending", 2: "Running"}, 2),
        ({1: "Running"}, 1),
        ({0: "Succeeded", 1: "Succeeded"}, None),
    ],
    ids=["the first works", "the first has ended", "the first waits", "it is not there", "all have ended"],
)
def test_whose_sign_of_life_counts(phases, rank):
    world = World()
    pods = [of_rank(world, number, phase=phase) for number, phase in phases.items()]
    pod = leading(pods, gang=False)
    assert (None if pod is None else pod.rank) == rank
    of_gang = leading(pods, gang=True)
    assert (None if of_gang is None else of_gang.rank) == (0 if rank == 0 else None)


def test_the_name_of_a_shard_is_no_part_of_a_refusal():
    """Else the same refusal of another shard would read as news."""
    said = [
        {"reason": "FailedCreate", "message": f'Error creating: pods "j-{name}" is forbidden: exceeded quota'}
        for name in ("0-abc12", "13-xyz98", "bcd34")
    ]
    told = {observe.newest_warning([event], "j").message for event in said}
    assert told == {'Error creating: pods "j" is forbidden: exceeded quota'}


@pytest.mark.parametrize(
    ("told", "done"),
    [(None, False), ("", False), ("0", True), ("0,2", True), ("0-3", True), ("1-3", False), ("10,11", False)],
)
def test_the_job_tells_whether_its_first_pod_has_ended(told: str | None, done: bool) -> None:
    """As Kubernetes writes `status.completedIndexes`."""
    meta = {"name": "a-trim", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    raw = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "status": {"completedIndexes": told}}
    assert observe.child(raw).first_done is done
