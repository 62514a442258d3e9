"""Whether the training moves: loading, waiting for peers, hanging, and numbers that lie."""

from datetime import datetime

import pytest

from mochi_api.heartbeat import Heartbeat, parse
from mochi_api.outcomes import Reason
from tests.operator.world import World, full, heartbeat, lora, well

SHORT = {"stallTimeoutSeconds": 60}


def endless(stage, attempt, rank):
    return well(stage, attempt, rank) if stage != "train" else None


async def training(spec=None) -> World:
    world = World(spec if spec is not None else lora(runPolicy=SHORT))
    world.script = endless
    await world.until(lambda world: world.phase == "Training")
    return world


async def quarters(world: World, count: int) -> None:
    """So many minutes, in passes of 15 s."""
    for _ in range(4 * count):
        await world.turn()
        world.clock.advance(15)


async def test_loading_that_advances_is_no_stall_however_long_it_takes():
    world = await training()
    world.signs.answer = heartbeat(
        activity="loading", done=0, loss=None, step_age_seconds=None, quiet_seconds=3
    )
    await quarters(world, 10)
    assert world.attempts("train") == [""]
    assert world.phase == "Training"


async def test_loading_that_hangs_is_a_stall_and_says_so():
    world = await training()
    world.signs.answer = heartbeat(activity="loading", done=0, step_age_seconds=None, quiet_seconds=61)
    await world.turn()
    assert world.attempts("train") == [Reason.STALLED]
    assert "nothing has moved for more than 60 s while loading" in world.status["attempts"][0]["message"]


async def test_a_rank_that_waits_for_a_pending_peer_does_not_stall():
    """Half a gang is scheduled: rank 0 hangs in its rendezvous, and that is as it should be."""
    world = World(full(runPolicy=SHORT))
    world.script = endless
    await world.until(lambda world: len(world.pods("dissolve-a1")) == 2)
    late = world.pods("dissolve-a1")[1]
    late["status"] = {
        "phase": "Pending",
        "held": True,
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes: Insufficient gpu"}],
    }
    world.step()
    world.signs.answer = heartbeat(activity="waiting for peers", done=0, quiet_seconds=3000)
    await quarters(world, 20)
    assert world.attempts("train") == [""]
    running = world.condition("TrainingRunning")
    assert (running["status"], world.phase) == ("False", "Starting")
    assert "1 of 2 pods run; dissolve-a1-worker-1: 0/2 nodes: Insufficient gpu" in running["message"]
    late["status"] = {"phase": "Pending"}
    world.step()
    world.signs.answer = heartbeat()
    await world.turn()
    assert world.phase == "Training"


async def test_a_full_hang_is_a_stall_where_the_log_can_be_read():
    world = await training()
    world.signs.log_readable = True
    await quarters(world, 3)
    assert world.attempts("train")[0] == Reason.STALLED
    assert "no sign of life of dissolve-a1" in world.status["attempts"][-1]["message"]


async def test_where_neither_address_nor_log_answers_nothing_follows_from_silence():
    world = await training()
    await quarters(world, 60)
    assert world.attempts("train") == [""]
    assert world.condition("TrainingHealthy")["reason"] == "ProgressUnavailable"


async def test_an_image_without_signs_of_life_in_its_log_is_not_called_hanging():
    """A run that an earlier version began has no check, and its image writes no such lines."""
    world = await training()
    status = world.run["status"]
    status["stages"] = [item for item in status["stages"] if item["name"] != "check"]
    world.signs.log_readable = True
    await quarters(world, 10)
    assert world.attempts("train") == [""]


@pytest.mark.parametrize("step", ["check", "trim", "captions", "videos", "sample"])
async def test_a_stage_that_hangs_is_ended_and_tried_again(step):
    world = World(lora(runPolicy=SHORT))
    world.script = lambda stage, attempt, rank: (
        None if (stage, attempt) == (step, 1) else well(stage, attempt, rank)
    )
    await world.until(
        lambda world: any(pod["status"]["phase"] == "Running" for pod in world.pods(f"dissolve-{step}"))
    )
    world.signs.answer = heartbeat(activity="working", done=1, total=9, quiet_seconds=61)
    await world.turn()
    assert world.attempts(step) == [Reason.STALLED]
    world.signs.answer = None
    await world.until(lambda world: world.phase == "Succeeded")


@pytest.mark.parametrize("step", ["trim", "videos"])
async def test_a_stage_that_hangs_after_the_same_clip_each_time_is_given_up(step):
    world = World(lora(runPolicy={**SHORT, "backoffLimit": 1, "retryBackoff": {"initialSeconds": 0}}))
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != step else None

    def watched(world: World) -> bool:
        hangs = any(pod["status"]["phase"] == "Running" for pod in world.cluster.all("Pod"))
        at_work = world.status.get("stages", [{}])[-1:] and world.status["stages"][-1]["name"] == step
        world.signs.answer = heartbeat(done=5, total=9, quiet_seconds=61) if hangs and at_work else None
        return world.phase == "Failed"

    await world.until(watched)
    assert world.attempts(step) == [Reason.STALLED] * 2


async def test_the_pod_that_is_asked_is_rank_0_of_what_runs():
    world = World(full())
    await world.until(lambda world: world.phase == "Succeeded")
    asked = [(target.pod, target.container, bool(target.address)) for target in world.signs.targets]
    assert asked == [
        ("dissolve-check-x7x7x", "mochi-trainer", False),
        ("dissolve-trim-x7x7x", "mochi-trainer", False),
        ("dissolve-captions-x7x7x", "mochi-trainer", False),
        ("dissolve-videos-x7x7x", "mochi-trainer", False),
        ("dissolve-a1-worker-0", "pytorch", True),
        ("dissolve-sample-x7x7x", "mochi-trainer", False),
    ]


async def test_a_loss_that_flips_writes_and_says_no_more_than_the_settings_allow():
    world = await training(lora())
    world.cluster.writes.clear()
    for turn in range(60):
        world.signs.answer = heartbeat(done=turn, loss=None if turn % 2 else 0.5, non_finite=turn)
        await world.turn()
        world.clock.advance(2)
    patches = [write for write in world.cluster.writes if write[0] == "patch"]
    assert len(patches) <= 2 * 60 / 30 + 1
    assert world.cluster.reasons().count(Reason.NON_FINITE_LOSS) <= 1


async def test_an_event_of_a_loss_that_is_not_finite_is_the_same_each_time():
    world = await training(lora())
    for turn in range(12):
        world.signs.answer = heartbeat(done=turn + 1, loss=None if turn % 2 else 0.5, non_finite=turn)
        await world.turn()
        world.clock.advance(31)
    assert world.cluster.reasons().count(Reason.NON_FINITE_LOSS) == 1


LIES = [
    '{"attempt":1,"activity":"training","quietSeconds":1e308,"done":5}',
    '{"attempt":1,"activity":"training","quietSeconds":-1,"done":5}',
    '{"attempt":1,"activity":"training","quietSeconds":0,"stepSeconds":1e400,"total":1000000000,"done":1}',
    '{"attempt":1,"activity":"training","quietSeconds":0,"stepSeconds":1e9,"total":1000000000,"done":1}',
    '{"attempt":1,"activity":"training","quietSeconds":0,"stepAgeSeconds":1e9,"done":1000000000,"total":1}',
    '{"attempt":1,"activity":"training","quietSeconds":0,"checkpointStep":3,"checkpointUri":"s3://x","checkpointAgeSeconds":1e9}',
    '{"attempt":1,"activity":"training","quietSeconds":0,"loss":"NaN","gradNorm":1e308,"done":2,"total":3}',
    '{"attempt":1,"activity":"' + "x" * 5000 + '","quietSeconds":0}',
    '{"attempt":1e30,"activity":"training","quietSeconds":0}',
]


@pytest.mark.parametrize("document", LIES)
async def test_a_lie_raises_nothing_and_can_be_written_down(document):
    world = await training(lora())
    beat = parse(document)
    assert beat is None or isinstance(beat, Heartbeat)
    world.signs.answer = beat
    for _ in range(3):
        await world.turn()
        world.clock.advance(31)
    for name in ("step", "totalSteps", "progressPercentage"):
        assert 0 <= world.status["training"][name] <= 10**9
    assert world.status["training"].get("estimatedRemainingSeconds", 0) < 2**63


async def test_the_time_of_the_last_step_is_ours_and_not_the_pods():
    world = await training(lora())
    world.signs.answer = heartbeat(step_age_seconds=7)
    await world.turn()
    age = world.clock.now.timestamp() - _seconds(world.status["training"]["lastStepTime"])
    assert age == pytest.approx(7, abs=1)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
