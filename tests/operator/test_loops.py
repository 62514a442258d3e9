"""The queue, the workers and the resync."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest

from mochi_api.status import Resolved
from mochi_operator.controller import Controller, gpu_seconds
from mochi_operator.metrics import Metrics
from mochi_operator.pulse import Pulse
from mochi_operator.state import Attempt, State, Step
from mochi_operator.timestamps import parse
from mochi_operator.workqueue import WorkQueue
from tests.operator.fake_cluster import AwayCluster
from tests.operator.world import KEY, World


def controller(world: World, queue: WorkQueue, pulse: Pulse | None = None) -> Controller:
    world.metrics = Metrics()
    return Controller(
        world.cluster, world.gatherer, world.backend, queue, world.metrics, pulse or Pulse(lambda: 0.0, 60)
    )


async def test_a_key_that_waits_is_not_queued_twice():
    queue = WorkQueue[str]()
    queue.add("a")
    queue.add("a")
    assert (len(queue), await queue.take(), len(queue)) == (1, "a", 0)


async def test_a_key_is_at_one_worker_at_a_time_and_comes_again_afterwards():
    queue = WorkQueue[str]()
    queue.add("a")
    await queue.take()
    queue.add("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.take(), 0.02)
    queue.done("a", None)
    assert await asyncio.wait_for(queue.take(), 1) == "a"


async def test_failures_wait_longer_each_time_up_to_five_minutes():
    queue = WorkQueue[str](random.Random(1))
    pauses = []
    for _ in range(12):
        queue.add("a")
        await queue.take()
        pauses.append(queue.failed("a"))
    queue.close()
    assert 0.8 <= pauses[0] <= 1.2
    assert 6.4 <= pauses[3] <= 9.6
    assert 240 <= pauses[-1] <= 360


async def test_success_forgets_the_failures():
    queue = WorkQueue[str](random.Random(1))
    for _ in range(6):
        queue.failed("a")
    queue.done("a", None)
    assert queue.failed("a") <= 1.2
    queue.close()


async def test_the_earlier_of_two_times_counts():
    queue = WorkQueue[str]()
    queue.add_after("a", 0.02)
    queue.add_after("a", 60)
    assert await asyncio.wait_for(queue.take(), 1) == "a"
    queue.done("a", None)
    queue.add_after("b", 60)
    queue.add_after("b", 0.02)
    assert await asyncio.wait_for(queue.take(), 1) == "b"
    queue.close()


async def test_the_resync_finds_runs_that_no_watch_reported():
    world, queue = World(), WorkQueue()
    loop = asyncio.ensure_future(controller(world, queue).resync((), 60))
    assert await asyncio.wait_for(queue.take(), 1) == KEY
    loop.cancel()


async def test_the_resync_keeps_to_its_namespaces():
    world, queue = World(), WorkQueue()
    loop = asyncio.ensure_future(controller(world, queue).resync(("elsewhere",), 60))
    await asyncio.sleep(0.02)
    loop.cancel()
    assert len(queue) == 0


async def test_a_failed_call_is_tried_again_and_counted():
    world, queue = World(), WorkQueue()
    world.cluster = AwayCluster(world.clock)
    world.restart()
    queue.add(KEY)
    await queue.take()
    await controller(world, queue).turn(KEY)
    queue.close()
    assert (
        'mochi_operator_reconcile_total{result="error"} 1.0'
        in generate_latest(world.metrics.registry).decode()
    )


async def test_a_turn_schedules_the_next():
    world, queue = World(), WorkQueue()
    queue.add(KEY)
    await controller(world, queue).turn(await queue.take())
    assert world.phase == "Preprocessing"
    assert len(queue) == 0
    queue.close()


async def test_metrics_follow_the_run_and_go_with_it():
    world, queue = World(), WorkQueue()
    loops = controller(world, queue)
    await world.until(lambda world: world.phase == "Training")
    await loops.turn(KEY)
    text = generate_latest(world.metrics.registry).decode()
    assert 'mochi_finetune_phase{finetune="dissolve",namespace="videos",phase="Training"} 1.0' in text
    assert 'mochi_finetune_attempts_total{finetune="dissolve",namespace="videos"} 1.0' in text
    assert 'mochi_finetune_gpu_seconds_total{finetune="dissolve",namespace="videos"} 0.0' in text
    assert 'mochi_finetune_info{finetune="dissolve",mode="lora",namespace="videos",uid="run-uid"} 1.0' in text
    assert (
        'mochi_finetune_stage_failed_items{finetune="dissolve",namespace="videos",stage="trim"} 0.0' in text
    )
    assert 'mochi_operator_reconcile_errors_total{kind="api"} 0.0' in text
    world.cluster.outage = lambda verb, kind, place: "before"
    await loops.turn(KEY)
    world.cluster.outage = lambda verb, kind, place: ""
    text = generate_latest(world.metrics.registry).decode()
    assert 'mochi_operator_reconcile_errors_total{kind="api"} 1.0' in text
    assert 'mochi_operator_reconcile_errors_total{kind="defect"} 0.0' in text
    world.cluster.objects.clear()
    await loops.turn(KEY)
    assert "dissolve" not in generate_latest(world.metrics.registry).decode()
    queue.close()


def test_gpu_seconds_are_those_of_the_attempts_from_when_all_pods_ran():
    begun = datetime(2026, 1, 1, tzinfo=UTC)

    def attempt(number: int, ran: float | None, ended: float | None) -> Attempt:
        at = [None if each is None else begun + timedelta(seconds=each) for each in (ran, ended)]
        return Attempt(number=number, child=f"a{number}", started=begun, ran=at[0], ended=at[1])

    chosen = Resolved(replicas=2, gpus_per_pod=4, image="x", warmup_steps=1, global_batch_size=8)
    attempts = (attempt(3, 100, None), attempt(2, None, 90), attempt(1, 10, 40))
    state = State(resolved=chosen).with_step(Step(name="train", attempts=attempts))
    assert gpu_seconds(state, begun + timedelta(seconds=105)) == 8 * (5 + 30)
    assert gpu_seconds(State(), begun) == 0


def test_the_pulse_is_healthy_while_the_loop_turns():
    now = [0.0]
    pulse = Pulse(lambda: now[0], 300)
    assert pulse.report()["healthy"] is True
    now[0] = 301
    assert pulse.report()["healthy"] is False
    pulse.turned(listed=False)
    assert pulse.report() == {
        "healthy": True, "resyncLoopSeconds": 0.0, "lastListSeconds": None, "lastWatchEventSeconds": None
    }  # fmt: skip


async def test_a_namespace_that_may_not_be_listed_costs_no_other():
    world, queue = World(), WorkQueue()
    world.cluster.outage = lambda verb, kind, place: "before" if (verb, place) == ("list", "gone") else ""
    pulse = Pulse(lambda: 0.0, 60)
    loop = asyncio.ensure_future(controller(world, queue, pulse).resync(("gone", "videos"), 60))
    assert await asyncio.wait_for(queue.take(), 1) == KEY
    loop.cancel()
    assert pulse.report()["lastListSeconds"] == 0.0


async def test_a_run_that_has_gone_is_looked_at_once_more_and_its_namespace_that_answers_no_more_forgets_nothing():
    world, queue = World(), WorkQueue()
    loop = asyncio.ensure_future(controller(world, queue).resync(("videos",), 0.01))
    assert await asyncio.wait_for(queue.take(), 1) == KEY
    queue.done(KEY, None)
    world.cluster.objects.clear()
    assert await asyncio.wait_for(queue.take(), 1) == KEY
    loop.cancel()


async def test_metrics_keep_numbers_of_a_run_and_no_snapshot():
    """What is kept of ten thousand runs must stay small."""
    world, queue = World(), WorkQueue()
    loops = controller(world, queue)
    await world.until(lambda world: world.phase == "Training")
    await loops.turn(KEY)
    rows = [
        line
        for line in generate_latest(world.metrics.registry).decode().splitlines()
        if 'finetune="dissolve"' in line
    ]
    stages = {line.split('stage="')[1].split('"')[0] for line in rows if "stage_failed_items" in line}
    assert stages == {"check", "trim", "captions", "videos"}
    assert sum("mochi_finetune_phase" in line and line.endswith(" 1.0") for line in rows) == 1
    timed = {line.split('stage="')[1].split('"')[0] for line in rows if "stage_seconds" in line}
    assert timed == {"check", "trim", "captions", "videos"}
    conditions = [line for line in rows if "mochi_finetune_condition" in line]
    assert len(conditions) == len(world.status["conditions"])
    assert any('status="True",type="Accepted"' in line for line in conditions)
    created = world.run["metadata"]["creationTimestamp"]
    [start] = [line for line in rows if "start_timestamp" in line]
    assert float(start.split()[-1]) == parse(created).timestamp()
    queue.close()
