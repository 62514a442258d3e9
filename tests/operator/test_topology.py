"""Where the training pods have landed, and what another layout would gain."""

import pytest

from mochi_api.outcomes import Reason
from tests.operator.world import World, failing, lora, well

PUBLISHED = {
    "mode": "full",
    "model": {"preset": "mochi-1", "source": {"s3": {"uri": "s3://models/mochi-1/"}}},
    "preprocessing": {"frames": 37},
    "training": {"steps": 20},
}


def forever(stage, attempt, rank):
    return well(stage, attempt, rank) if stage != "train" else None


def placed(nodes: int, **sections) -> World:
    """A run whose training pods are dealt out to so many nodes."""
    world = World(lora(**sections))
    world.around.node_of = lambda rank: f"gpu-{rank % nodes}"
    world.script = forever
    return world


async def told(world: World) -> tuple[str, str, str]:
    await world.until(lambda world: world.phase == "Training")
    await world.turn()
    found = world.condition("TopologyOptimal")
    return found["status"], found["reason"], found["message"]


def warnings(world: World) -> list[str]:
    return [reason for reason in world.cluster.reasons() if reason == "NVLinkUnavailable"]


async def test_eight_pods_of_one_gpu_on_one_node_are_told_what_one_pod_of_eight_would_gain():
    world = placed(1, **PUBLISHED)
    assert await told(world) == (
        "False",
        "NVLinkUnavailable",
        "8 training pods of 1 GPU run on node gpu-0, and NCCL sends their gradients through the network instead of "
        "NVLink, where the GPUs have it: 70.2 GB for each GPU in each step; one pod with 8 GPUs (workers.replicas: 1, "
        "gpusPerPod: 8) would keep the exchange inside the pod",
    )
    assert warnings(world) == ["NVLinkUnavailable"]
    for _ in range(3):
        world.step()
        await world.turn()
    assert warnings(world) == ["NVLinkUnavailable"], "it is said once, not at every visit"


@pytest.mark.parametrize(
    ("nodes", "sections", "expected"),
    [
        (8, PUBLISHED, ("True", "OnePodPerNode", "8 pods of 1 GPU on as many nodes")),
        (
            1,
            PUBLISHED | {"workers": {"gpusPerPod": 8}},
            ("True", "OnePodPerNode", "one pod with 8 GPUs: they exchange over NVLink where they have it"),
        ),
        (
            2,
            PUBLISHED | {"workers": {"gpusPerPod": 4}},
            ("True", "OnePodPerNode", "2 pods of 4 GPUs on as many nodes"),
        ),
        (1, {"workers": {"gpusPerPod": 1}}, ("True", "SingleGPU", "nothing is exchanged")),
        (1, {}, ("Unknown", "NoGPUs", "the training pods have no GPUs")),
        (
            1,
            {"mode": "full", "workers": {"replicas": 2}},
            ("Unknown", "NoGPUs", "the training pods have no GPUs"),
        ),
    ],
    ids=["8x1 on 8 nodes", "1x8", "2x4", "one GPU", "no GPU", "two pods without GPUs"],
)
async def test_where_nothing_is_lost_nothing_is_warned_of(nodes, sections, expected):
    world = placed(nodes, **sections)
    assert await told(world) == expected
    assert warnings(world) == []


@pytest.mark.parametrize(
    ("nodes", "workers", "words"),
    [
        (2, {}, "4 training pods of 1 GPU run on node gpu-1, "),
        (2, {}, "; 2 pods with 4 GPUs (workers.replicas: 2, gpusPerPod: 4) would keep the exchange of each node inside its pod"),
        (1, {"gpusPerPod": 4}, "2 training pods of 4 GPUs run on node gpu-0, "),
        (1, {"gpusPerPod": 4}, "; one pod with 8 GPUs (workers.replicas: 1, gpusPerPod: 8) would keep the exchange inside the pod"),
        (3, {}, "; fewer pods with more GPUs each (workers.replicas, gpusPerPod) would keep the exchange inside the pods"),
        (1, {"replicas": 2, "gpusPerPod": 8}, "; fewer pods with more GPUs each"),
    ],
)  # fmt: skip
async def test_the_better_layout_follows_from_where_the_pods_are(nodes, workers, words):
    truth, reason, message = await told(placed(nodes, **PUBLISHED, workers=workers))
    assert (truth, reason) == ("False", "NVLinkUnavailable")
    assert words in message


async def test_a_lora_exchanges_next_to_nothing_and_no_figure_is_told():
    world = placed(1, **PUBLISHED | {"mode": "lora", "limits": "Memory", "workers": {"replicas": 2}})
    assert (await told(world))[2] == (
        "2 training pods of 1 GPU run on node gpu-0, and NCCL sends their gradients through the network instead of "
        "NVLink, where the GPUs have it; one pod with 2 GPUs (workers.replicas: 1, gpusPerPod: 2) would keep the "
        "exchange inside the pod"
    )


async def test_nothing_is_known_before_all_pods_run_and_after_an_attempt_has_failed():
    world = placed(1, **PUBLISHED, runPolicy={"retryBackoff": {"initialSeconds": 60}})
    world.script = failing(Reason.COLLECTIVE_TIMEOUT, 9, until=2)
    await world.until(lambda world: world.phase == "Starting" and world.status["training"]["attempt"] == 1)
    assert world.condition("TopologyOptimal")["status"] == "Unknown"
    await world.until(lambda world: world.phase == "Retrying")
    assert (world.condition("TopologyOptimal")["status"], world.condition("TopologyOptimal")["reason"]) == (
        "Unknown",
        "Retrying",
    )
    world.around.node_of = lambda rank: f"gpu-{rank}"
    world.script = forever
    assert (await told(world))[:2] == ("True", "OnePodPerNode")


async def test_what_was_found_stays_when_pods_have_ended():
    world = placed(1, **PUBLISHED)
    await told(world)
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.condition("TopologyOptimal")["reason"] == "NVLinkUnavailable"
    assert warnings(world) == ["NVLinkUnavailable"]
