"""Pods with containers that are not ours: found by name, never by place."""

from datetime import timedelta

import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_operator import observe
from mochi_operator.snapshot import Pod
from mochi_operator.verdicts import containers
from tests.operator.fake_cluster import START
from tests.operator.world import End, World, failing, full, lora, well

SIDECARS = ["istio-proxy", "linkerd-proxy", "zz-agent"]
"""A kubelet sorts statuses by name: two before ours, one after."""


def raw(
    ours: str, *states: tuple[str, dict], init: tuple[tuple[str, dict], ...] = (), phase="Running"
) -> Pod:
    """A pod as the API server gives it."""

    def statuses(items):
        return [{"name": name, "state": state} for name, state in sorted(items)]

    return observe.pod(
        {
            "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {
                "phase": phase,
                "containerStatuses": statuses(states),
                "initContainerStatuses": statuses(init),
            },
        }
    )


def terminated(code: int, message: str = "", reason: str = "Error") -> dict:
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


LINE = Outcome(reason=Reason.INVALID_INPUT, message="frames").to_line()
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


@pytest.mark.parametrize("ours", ["mochi-trainer", "pytorch"])
@pytest.mark.parametrize("sidecar", SIDECARS)
def test_exit_code_and_outcome_are_those_of_our_container(ours, sidecar):
    pod = raw(ours, (sidecar, RUNNING), (ours, terminated(2, LINE)))
    assert (pod.main.name, pod.main.exit_code, [item.name for item in pod.foreign]) == (ours, 2, [sidecar])
    finding = containers.pod_failure(pod)
    assert finding is not None
    assert (finding.reason, finding.message) == (Reason.INVALID_INPUT, "p: frames")


@pytest.mark.parametrize("sidecar", SIDECARS)
def test_a_sidecar_that_fails_after_ours_ended_well_changes_nothing(sidecar):
    done = Outcome(reason=Reason.COMPLETED).to_line()
    pod = raw("pytorch", (sidecar, terminated(1)), ("pytorch", terminated(0, done)), phase="Failed")
    assert pod.succeeded
    assert containers.pod_failure(pod) is None


def test_a_sidecar_out_of_memory_is_not_blamed_on_our_container():
    pod = raw(
        "pytorch",
        ("istio-proxy", terminated(137, reason="OOMKilled")),
        ("pytorch", {"waiting": {"reason": "PodInitializing"}}),
        phase="Failed",
    )
    finding = containers.pod_failure(pod)
    assert finding is not None
    assert finding.reason == Reason.OUT_OF_MEMORY
    assert "the container istio-proxy, which is not ours, used more" in finding.message


def test_an_injected_init_container_that_fails_is_named():
    init = (("istio-init", terminated(1, "iptables: permission denied")),)
    pod = raw("pytorch", ("pytorch", {"waiting": {"reason": "PodInitializing"}}), init=init, phase="Failed")
    finding = containers.pod_failure(pod)
    assert finding is not None
    assert "the container istio-init, which is not ours, ended with exit code 1: iptables" in finding.message


@pytest.mark.parametrize("spec", [lora(), full()], ids=["lora", "full"])
@pytest.mark.parametrize("sidecar", SIDECARS)
async def test_a_run_succeeds_beside_sidecars_that_never_end_and_its_pods_go(sidecar, spec):
    world = World(spec)
    world.around.sidecar = sidecar
    await world.until(lambda world: world.phase == "Succeeded", turns=100)
    for step in ("check", "trim", "captions", "videos", "train", "sample"):
        assert world.attempts(step) == [Reason.COMPLETED]
    for _ in range(20):
        await world.turn()
        world.step()
        world.clock.advance(5)
    assert world.cluster.all("Pod") == [], "a sidecar would hold the GPU for ever"


@pytest.mark.parametrize("sidecar", SIDECARS)
async def test_a_failure_beside_a_sidecar_is_seen_at_once(sidecar):
    world = World()
    world.around.sidecar = sidecar
    world.script = failing(Reason.OUT_OF_MEMORY, 7, until=99, message="needs 90 GiB")
    await world.until(lambda world: world.phase == "Failed", turns=40)
    assert world.condition("Failed")["reason"] == Reason.OUT_OF_MEMORY
    for _ in range(20):
        await world.turn()
        world.step()
        world.clock.advance(5)
    assert not any(pod["status"]["phase"] == "Running" for pod in world.cluster.all("Pod"))


async def test_a_native_sidecar_changes_nothing():
    world = World()
    world.around.native_sidecar = "istio-proxy"
    await world.until(lambda world: world.phase == "Succeeded")


async def test_a_sidecar_whose_image_cannot_be_pulled_is_named():
    world = World()
    await world.until(lambda world: world.pods("dissolve-check") != [])
    pod = world.pods("dissolve-check")[0]
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image proxy:9"}}
    pod["status"] = {
        "phase": "Pending",
        "held": True,
        "containerStatuses": [
            {"name": "istio-proxy", "state": waiting},
            {"name": "mochi-trainer", "state": {"waiting": {"reason": "ContainerCreating"}}},
        ],
    }
    await world.turn()
    assert (
        "the container istio-proxy, which is not ours: Back-off pulling image"
        in world.condition("Checked")["message"]
    )
    world.clock.advance(181)
    await world.turn()
    assert world.condition("Failed")["reason"] == Reason.IMAGE_UNAVAILABLE


def test_a_pod_without_any_status_of_ours_has_not_ended():
    pod = raw("pytorch", ("istio-proxy", terminated(0)))
    assert not pod.ended
    assert pod.created <= START + timedelta(seconds=1)


async def test_ranks_end_one_by_one_beside_sidecars():
    """Rank 1 is done, rank 0 exports: no pod ends, and nothing is decided too early."""
    world = World(full())
    world.around.sidecar = "istio-proxy"
    world.script = lambda stage, attempt, rank: (
        None if (stage, rank) == ("train", 0) else well(stage, attempt, rank)
    )
    await world.until(lambda world: world.phase == "Training")
    for _ in range(3):
        world.step()
        await world.turn()
    assert world.attempts("train") == [""]
    world.end(world.pods("dissolve-a1")[0], well("train", 1, 0))
    await world.turn()
    assert world.attempts("train") == [Reason.COMPLETED]


async def test_a_rank_that_fails_beside_a_sidecar_fails_the_attempt():
    world = World(full())
    world.around.sidecar = "istio-proxy"
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != "train" else None
    await world.until(lambda world: world.phase == "Training")
    world.end(world.pods("dissolve-a1")[1], End(6, Outcome(reason=Reason.STORAGE_ERROR, message="gone")))
    await world.turn()
    assert world.attempts("train") == [Reason.STORAGE_ERROR]
    assert "dissolve-a1" not in world.cluster.names("PyTorchJob")
