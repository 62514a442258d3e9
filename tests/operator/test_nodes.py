"""Nodes that die, pods that are stopped and take their time, names that are still taken."""

import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_api.runfile import STAGES
from mochi_operator.cluster import FINETUNES
from tests.operator.world import NAME, NAMESPACE, End, World, full, lora, well


def stuck(step: str):
    """The first attempt runs until somebody ends it."""
    return lambda stage, attempt, rank: None if (stage, attempt) == (step, 1) else well(stage, attempt, rank)


def runs(world: World, child: str) -> bool:
    return any(pod["status"]["phase"] == "Running" for pod in world.pods(child))


def first_child(step: str) -> str:
    return "dissolve-a1" if step == "train" else f"dissolve-{step}"


@pytest.mark.parametrize("step", STAGES)
async def test_a_step_on_a_dead_node_goes_on_elsewhere(step):
    """The pod is Running and Terminating for ever; its Job counts it, and would wait for ever."""
    world = World()
    world.script = stuck(step)
    world.cluster.collect_seconds = 1
    await world.until(lambda world: runs(world, first_child(step)))
    pod = world.pods(first_child(step))[0]
    world.around.lose_node(pod)
    await world.until(lambda world: world.phase == "Succeeded", turns=120)
    assert world.attempts(step) == [Reason.NODE_LOST, Reason.COMPLETED]
    assert pod["metadata"]["name"] in world.cluster.names("Pod"), "a dead node gives nothing back"


async def test_a_lost_node_is_told_as_a_lost_node_and_named():
    world = World()
    world.script = stuck("train")
    await world.until(lambda world: world.phase == "Training")
    world.around.lose_node(world.pods("dissolve-a1")[0])
    await world.turn()
    assert "is being stopped: Taint manager" in world.condition("TrainingRunning")["message"]
    world.clock.advance(180 + 31)
    await world.turn()
    attempt = world.status["attempts"][0]
    assert attempt["reason"] == Reason.NODE_LOST
    assert "node-7 does not answer" in attempt["message"]


async def test_a_pod_that_is_being_stopped_has_not_failed_though_the_training_operator_says_so():
    world = World()
    world.script = stuck("train")
    await world.until(lambda world: world.phase == "Training")
    world.around.lose_node(world.pods("dissolve-a1")[0])
    message = "PyTorchJob dissolve-a1 is failed because 1 Worker replica(s) failed."
    failed = {"type": "Failed", "status": "True", "reason": "PyTorchJobFailed", "message": message}
    world.cluster.one("PyTorchJob", "dissolve-a1")["status"] = {"conditions": [failed]}
    await world.turn()
    assert "is being stopped: Taint manager" in world.condition("TrainingRunning")["message"]
    world.clock.advance(180 + 31)
    await world.turn()
    assert world.attempts("train")[0] == Reason.NODE_LOST


async def test_a_lost_node_does_not_spend_the_budget():
    world = World(lora(runPolicy={"backoffLimit": 0}))
    world.script = stuck("train")
    await world.until(lambda world: world.phase == "Training")
    world.around.lose_node(world.pods("dissolve-a1")[0])
    await world.until(lambda world: world.phase == "Succeeded", turns=120)


async def test_the_next_attempt_beside_an_unreachable_pod_has_another_number_and_another_name():
    """What the lost pod may still write is fenced by its attempt's number: see the checkpoints of the trainer."""
    world = World()
    world.script = stuck("train")
    world.cluster.collect_seconds = 1
    await world.until(lambda world: world.phase == "Training")
    world.around.lose_node(world.pods("dissolve-a1")[0])
    await world.until(lambda world: world.pods("dissolve-a2") != [], turns=120)
    numbers = {
        pod["metadata"]["labels"]["mochi.finetune.dev/attempt"]
        for job in ("dissolve-a1", "dissolve-a2")
        for pod in world.pods(job)
    }
    assert numbers == {"1", "2"}


async def test_an_evicted_pod_that_saves_is_waited_for():
    world = World()
    world.script = stuck("train")
    world.around.saving_seconds = 60
    world.cluster.collect_seconds = 1
    await world.until(lambda world: world.phase == "Training")
    pod = world.pods("dissolve-a1")[0]
    world.around.stop(pod, disruption="EvictionByEvictionAPI", message="Eviction API: evicting")
    for _ in range(10):
        await world.turn()
        world.clock.advance(5)
        assert world.cluster.names("PyTorchJob") == ["dissolve-a1"]
    world.end(pod, End(143, Outcome(reason=Reason.PREEMPTED, message="stopped by SIGTERM", step=9)))
    await world.turn()
    assert world.attempts("train") == [Reason.PREEMPTED]
    assert world.status["attempts"][0]["lastStep"] == 9


@pytest.mark.parametrize("step", STAGES)
async def test_a_node_that_is_drained_costs_one_attempt(step):
    world = World()
    world.script = stuck(step)
    await world.until(lambda world: runs(world, first_child(step)))
    pod = world.pods(first_child(step))[0]
    world.around.stop(pod, disruption="EvictionByEvictionAPI", message="Eviction API: evicting")
    world.end(pod, End(143))
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts(step) == [Reason.PREEMPTED, Reason.COMPLETED]


async def applied_again(world: World) -> None:
    """`kubectl delete` and `kubectl apply` of the same name, while pods of the first still save."""
    world.cluster.remove(FINETUNES, NAMESPACE, NAME)
    world.submit(uid="second")


async def test_a_run_applied_again_waits_for_the_old_pods_that_save():
    world = World()
    world.script = stuck("train")
    world.cluster.collect_seconds = 1
    world.around.saving_seconds = 150
    await world.until(lambda world: world.phase == "Training")
    await applied_again(world)
    for _ in range(10):
        await world.turn()
        world.step()
        world.clock.advance(5)
    world.script = well
    assert world.cluster.names("Job") == []
    assert world.status["stages"] == []
    assert "a deleted run of this name still has" in world.condition("Accepted")["message"]
    await world.until(lambda world: world.phase in ("Succeeded", "Failed"), turns=120)
    assert world.phase == "Succeeded"
    assert world.attempts("train") == [Reason.COMPLETED]


async def test_a_run_applied_again_takes_another_number_where_an_old_pod_sits_on_a_dead_node():
    world = World()
    world.script = stuck("train")
    world.cluster.collect_seconds = 1
    await world.until(lambda world: world.phase == "Training")
    world.around.lose_node(world.pods("dissolve-a1")[0])
    world.script = well
    await applied_again(world)
    await world.until(lambda world: world.phase in ("Succeeded", "Failed"), turns=160)
    assert world.phase == "Succeeded"
    assert [item["number"] for item in world.status["attempts"]] == [2], (
        "the name -a1-worker-0 is taken for ever"
    )


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_pod_that_is_being_stopped_is_no_running_replica(replicas):
    world = World(full() if replicas == 2 else lora())
    world.script = stuck("train")
    await world.until(lambda world: world.phase == "Training")
    world.around.stop(world.pods("dissolve-a1")[-1])
    await world.turn()
    assert world.status["training"]["replicasRunning"] == replicas - 1
