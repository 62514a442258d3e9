"""A run from the first visit to its end, on the fake cluster."""

from mochi_api.outcomes import Outcome, Reason, StageResult
from mochi_api.runfile import parse
from mochi_api.status import CONDITION_TYPES
from tests.operator.world import ARTIFACT, End, World, full, lora, well


async def test_all_conditions_exist_after_the_first_visit():
    world = World()
    await world.turn()
    assert [item["type"] for item in world.status["conditions"]] == list(CONDITION_TYPES)
    assert {item["observedGeneration"] for item in world.status["conditions"]} == {1}


async def test_the_stages_run_in_order_and_the_run_succeeds():
    world = World()
    await world.until(lambda world: world.phase == "Succeeded")
    assert [name for verb, kind, name in world.cluster.writes if verb == "create" and kind != "ConfigMap"] == [
        "dissolve-check", "dissolve-trim", "dissolve-captions", "dissolve-videos", "dissolve-a1", "dissolve-sample"
    ]  # fmt: skip
    assert world.status["artifacts"] == {
        "loraURI": ARTIFACT,
        "weightsURI": "",
        "sha256": "ab",
        "sizeBytes": 7,
        "sampleURIs": ["s3://runs/dissolve/a.mp4"],
        "reportURI": "s3://runs/dissolve/report.html",
        "runURI": "s3://runs/dissolve/runs/run-uid",
    }
    assert world.condition("Succeeded")["status"] == "True"
    assert world.condition("Checked")["message"] == "3 clips with captions"
    assert world.condition("Sampled")["status"] == "True"
    assert world.condition("Failed")["status"] == "False"
    assert world.condition("Stalled")["status"] == "False"
    assert world.condition("Reconciling")["status"] == "False"


async def test_the_end_says_100_percent_though_progress_was_last_read_before():
    world = World()
    await world.until(lambda world: world.phase == "Succeeded")
    training = world.status["training"]
    assert (training["step"], training["progressPercentage"], training["loss"]) == (20, 100, "0.25")
    assert training["estimatedRemainingSeconds"] == 0


async def test_every_stage_finds_the_keys_of_those_before_it_in_its_run_file():
    world = World()
    await world.until(lambda world: world.phase == "Succeeded")
    files = {
        config["metadata"]["name"]: parse(config["data"]["run.yaml"])
        for config in world.cluster.all("ConfigMap")
    }
    assert files["dissolve-trim-run"].keys.trim == ""
    assert files["dissolve-videos-run"].keys.captions == "key-captions"
    assert files["dissolve-a1-run"].keys.videos == "key-videos"
    assert files["dissolve-sample-run"].keys.trim == "key-trim"


async def test_the_phases_follow_each_other():
    world, seen = World(), []

    def note(world: World) -> bool:
        if not seen or seen[-1] != world.phase:
            seen.append(world.phase)
        return world.phase == "Succeeded"

    await world.until(note)
    assert seen == ["Preprocessing", "Starting", "Training", "Sampling", "Succeeded"]


async def test_events_tell_the_story():
    world = World()
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.cluster.reasons() == [
        "Accepted",
        *["StageStarted", "StageSucceeded"] * 4,
        "AttemptStarted",
        "TrainingSucceeded",
        "StageStarted",
        "StageSucceeded",
        "Succeeded",
    ]


async def test_reused_embeddings_and_failed_clips_are_said():
    def script(stage, attempt, rank):
        if stage != "trim":
            return well(stage, attempt, rank)
        result = StageResult(
            cache_key="k", cache_hit=True, items_total=3, items_done=2, items_failed=1,
            failures=[{"clip": "b.mp4", "message": "no video stream", "reason": "NoVideoStream"}],
        )  # fmt: skip
        return End(outcome=Outcome(reason=Reason.COMPLETED, stage_result=result))

    world = World()
    world.script = script
    await world.until(lambda world: world.phase == "Succeeded")
    messages = {
        event["reason"]: event["message"]
        for event in world.cluster.all("Event")
        if "trim" in event["message"]
    }
    assert messages["StageSucceeded"] == "trim: reused from the cache (key k): 2 of 3 clips"
    assert messages["FailedItems"] == "trim: 1 of 3 clips could not be used: b.mp4: no video stream"
    assert world.status["stages"][1]["failures"] == [
        {"clip": "b.mp4", "message": "no video stream", "reason": "NoVideoStream"}
    ]
    assert world.condition("Preprocessed")["message"] == "reused from the cache: trim"


async def test_full_mode_starts_as_many_pods_as_replicas_and_names_the_weights():
    world = World(full())
    await world.until(lambda world: world.phase == "Training")
    assert world.status["training"]["replicasRunning"] == 2
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.status["artifacts"]["weightsURI"] == ARTIFACT


async def test_the_image_of_the_spec_goes_before_the_charts():
    world = World(lora(workers={"image": "mine:2"}))
    await world.turn()
    job = world.cluster.one("Job", "dissolve-check")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:2"


async def test_a_run_that_is_being_deleted_is_left_alone():
    world = World()
    world.run["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await world.turn()
    assert world.cluster.writes == []


async def test_a_run_that_has_ended_costs_one_read_a_pass():
    world = World()
    await world.until(lambda world: world.phase == "Succeeded")
    await world.turn()
    world.cluster.calls.clear()
    await world.turn()
    assert world.cluster.calls == {("get", "mochi.finetune.dev", "mochifinetunes")}
