"""What a cluster does to a run while it goes on: each run ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from devcluster.parts import node_name
from mochi_api import layout
from mochi_api.identity import GROUP
from mochi_api.outcomes import ROWS, Reason
from mochi_api.status import FineTuneStatus
from tests.e2e import nodes, webhooks
from tests.e2e.lab import RESOURCE, Lab
from tests.e2e.pods import held_at, hold
from tests.e2e.stories import (
    LIMIT,
    STEPS,
    Story,
    Weights,
    reasons,
    same,
    spec,
    trained_steps,
    under_way,
    weights,
)

OUTAGE_SECONDS = float(os.environ.get("MOCHI_E2E_OUTAGE_SECONDS", "0"))
"""How much longer than until it is told the webhook is down; 300 by hand shows that time changes nothing."""
TOLD_SECONDS = 90.0
CURED_SECONDS = 60.0


def battered(lab: Lab, _folder: Path) -> FineTuneStatus:
    """Silent for a while, evicted by its node, deleted by a person, drained; then its samples find no GPU.

    A checkpoint that was left unfinished is newer than all that are complete.
    """
    node = node_name(1)
    lab.apply("battered", spec(sampling__gpus=1, **nodes.placed(node)))
    with held_at(lab, "battered", attempt=1, step=10):
        lab.until("battered", lambda s: _condition(s, "TrainingHealthy") == "Unknown", "silence")
    with held_at(lab, "battered", attempt=1, step=20) as pod:
        unfinished = layout.join(layout.checkpoint(lab.run_uri("battered"), 110, 1), "state.safetensors")
        lab.site.bucket.put_text("cut off", lab.site.bucket.key_of(unfinished))
        _evict(lab, pod)
    lab.until("battered", lambda s: len(s.attempts) == 2, "a second attempt")
    with held_at(lab, "battered", attempt=2, step=30):
        lab.kubectl.run("delete", "pytorchjob", "battered-a2", "--wait=false")
    lab.until("battered", lambda s: len(s.attempts) == 3, "a third attempt")
    _drain_under(lab, "battered", node)
    lab.until("battered", lambda s: _stage(s, "sample") is not None, "the end of the training")
    asked = ("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3")
    lab.told("battered", "the missing GPU", *asked)
    lab.warned("battered", "sample", *asked)
    return lab.status("battered")


def _drain_under(lab: Lab, name: str, node: str) -> None:
    """Drain the node of the third attempt, which may go on elsewhere."""
    with ThreadPoolExecutor(1) as pool:
        with held_at(lab, name, attempt=3, step=40) as pod:
            nodes.open_elsewhere(lab.kubectl, node)
            drain = pool.submit(_drain, lab, node, name)
            lab.kubectl.run("wait", "pod", pod, "--for=jsonpath={.metadata.deletionTimestamp}")
        drain.result()


def created_again(lab: Lab, _folder: Path) -> FineTuneStatus:
    """Deleted and created again under its name while the old pod, on a slow node, still saves."""
    lab.apply("again", spec())
    with held_at(lab, "again", attempt=1, step=10) as pod:
        slow = "devcluster/stop-delay-seconds"
        lab.kubectl.run("annotate", "pod", pod, f"{slow}=300")
        lab.kubectl.run("delete", RESOURCE, "again", "--timeout=180s", seconds=190)
        lab.apply("again", spec())
        lab.told("again", "the pod of the run before", "a deleted run of this name still has", pod)
        assert [item["metadata"]["name"] for item in lab.pods("again")] == [pod]
    lab.kubectl.run("annotate", "pod", pod, "--overwrite", f"{slow}=0")
    return lab.succeeded("again")


def with_a_sidecar(lab: Lab, folder: Path) -> FineTuneStatus:
    """Every pod has a proxy that never ends, first among its containers or as a native sidecar."""
    meshed = lab.within("meshed")
    with webhooks.mesh(meshed.kubectl, folder):
        meshed.apply("meshed", spec())
        meshed.until("meshed", lambda s: bool(s.attempts), "the training")
        status = meshed.succeeded("meshed")
    injected = [_containers(pod) for pod in meshed.pods("meshed")]
    assert injected, "no pod is left to look at"
    assert all(webhooks.SIDECAR in names for names in injected)
    end = time.monotonic() + TOLD_SECONDS
    while running := [pod["metadata"]["name"] for pod in meshed.pods("meshed") if _runs(pod)]:
        assert time.monotonic() < end, f"the sidecar keeps {running}\n{meshed.evidence('meshed')}"
        time.sleep(1)
    return status


def held_back(lab: Lab, _folder: Path) -> FineTuneStatus:
    """By a quota, a queue, a webhook that is down, and a queue once more in the middle of the training."""
    held = lab.within("held")
    held.kubectl.run("create", "quota", "full", "--hard=pods=0")
    held.apply("impatient", spec(runPolicy__preRunningDeadlineSeconds=20))
    with webhooks.outage(held.kubectl, "outage"):
        held.apply("held", spec())
        _by_quota_and_queue(held)
        _by_webhook(held)
    cured = datetime.now(UTC)
    status = held.until("held", lambda s: bool(s.attempts), "the training")
    begun = status.attempts[0].start_time
    assert begun is not None
    assert (datetime.fromisoformat(begun) - cured).total_seconds() < CURED_SECONDS
    with held_at(held, "held", attempt=1, step=10):
        held.kubectl.run("patch", "pytorchjob", "held-a1", "--type=merge", "-p", _suspended(True))
    held.told("held", "the suspension", "PyTorchJob held-a1 is suspended")
    held.kubectl.run("wait", "pod", "-l", f"{GROUP}/finetune=held,{GROUP}/stage=train", "--for=delete")
    held.kubectl.run("patch", "pytorchjob", "held-a1", "--type=merge", "-p", _suspended(False))
    return held.succeeded("held")


def _by_quota_and_queue(held: Lab) -> None:
    held.told("held", "the quota", "exceeded quota: full")
    held.warned("held", "exceeded quota: full")
    late = held.failed("impatient")
    failed = next(item for item in late.conditions if item.type == "Failed")
    assert failed.reason == "DeadlineExceeded"
    assert "runPolicy.preRunningDeadlineSeconds = 20" in failed.message
    assert "exceeded quota: full" in failed.message
    held.kubectl.run("patch", "job", "held-check", "-p", '{"spec": {"suspend": true}}')
    held.told("held", "the suspension", "Job held-check is suspended")
    held.kubectl.run("patch", "job", "held-check", "-p", '{"spec": {"suspend": false}}')
    held.kubectl.run("delete", "quota", "full")


def _by_webhook(held: Lab) -> None:
    done = held.until("held", lambda s: _state(s, "videos") == "Succeeded", "the embedded videos")
    assert not done.attempts
    held.told("held", "the webhook", "failed calling webhook", "outage.e2e.test", seconds=TOLD_SECONDS)
    assert "failed calling webhook" in held.kubectl.run("describe", RESOURCE, "held")
    held.warned("held", "failed calling webhook")
    time.sleep(OUTAGE_SECONDS)
    assert _state(held.status("held"), "videos") == "Succeeded"


def lost_with_its_node(lab: Lab, _folder: Path) -> FineTuneStatus:
    """The node is cut off, the run goes on elsewhere; when the old pod comes back to life it writes nothing."""
    node, lost = node_name(2), lab.cluster.node_lost(2)
    lab.apply("lost", spec(**nodes.placed(node)))
    held = hold(lab, "lost", attempt=1, step=10)
    uid = lab.kubectl.json("get", "pod", held.pod)["metadata"]["uid"]
    nodes.open_elsewhere(lab.kubectl, node)
    lost.touch()
    status = lab.succeeded("lost")
    held.release()
    assert _exit_code(lost.parent / "pods" / uid) == ROWS[Reason.SUPERSEDED].exit_code
    lost.unlink()
    lab.kubectl.run("wait", "pod", held.pod, "--for=delete", "--timeout=180s", seconds=190)
    return status


def _exit_code(pod: Path) -> int:
    """How the training container of a pod has ended, of which its node can tell nobody."""
    end = time.monotonic() + TOLD_SECONDS
    while not (found := list(pod.glob("containers/pytorch/*/exit.json"))):
        assert time.monotonic() < end, f"the pod of the lost node goes on: {pod}"
        time.sleep(0.5)
    code: int = json.loads(found[0].read_text())["code"]
    return code


STORIES: tuple[Story, ...] = (
    lost_with_its_node,
    held_back,
    battered,
    created_again,
    with_a_sidecar,
)
Told = Callable[[Story], FineTuneStatus]
Alike = Callable[[FineTuneStatus], bool]


@pytest.fixture(scope="module")
def told(
    lab: Lab, left_alone: Callable[[], Weights], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Told]:
    """The end of a story; all of them begin at once."""
    with under_way(lab, tmp_path_factory.mktemp("stories"), STORIES) as futures:
        yield lambda story: futures[story].result(LIMIT)


@pytest.fixture
def ends_alike(lab: Lab, left_alone: Callable[[], Weights], tmp_path: Path) -> Alike:
    """Whether a run has the weights of the one that was left alone, trained step by step."""

    def alike(status: FineTuneStatus) -> bool:
        assert trained_steps(lab, status) == list(range(1, STEPS + 1))
        return same(weights(lab, status, tmp_path), left_alone())

    return alike


def test_silence_is_no_failure_and_each_attempt_tells_its_own_end(told: Told, ends_alike: Alike) -> None:
    status = told(battered)
    assert reasons(status) == ["Preempted", "BackendDeleted", "Preempted", "Completed"]
    assert ends_alike(status)


def test_evicted_and_drained_attempts_do_not_count(told: Told) -> None:
    status = told(battered)
    assert status.training is not None
    assert status.training.spent <= 1


def test_sampling_that_waits_for_a_gpu_does_not_hide_the_result_of_the_training(told: Told) -> None:
    status = told(battered)
    assert status.phase == "Sampling"
    assert status.artifacts is not None
    assert status.artifacts.sha256


def test_a_run_of_an_old_name_waits_for_the_pods_of_the_old_run(told: Told, ends_alike: Alike) -> None:
    status = told(created_again)
    assert reasons(status) == ["Completed"]
    assert ends_alike(status)


def test_an_injected_sidecar_changes_nothing_and_does_not_stay(told: Told, ends_alike: Alike) -> None:
    status = told(with_a_sidecar)
    assert reasons(status) == ["Completed"]
    assert ends_alike(status)


def test_a_run_that_was_held_back_in_every_way_has_lost_nothing(told: Told, ends_alike: Alike) -> None:
    status = told(held_back)
    assert reasons(status) == ["Completed"]
    assert [(stage.name, stage.spent) for stage in status.stages if stage.spent] == []
    assert ends_alike(status)


def test_a_lost_node_costs_an_attempt_that_does_not_count_and_can_harm_nothing(
    told: Told, ends_alike: Alike, lab: Lab
) -> None:
    status = told(lost_with_its_node)
    assert reasons(status) == ["NodeLost", "Completed"]
    assert status.training is not None
    assert status.training.spent == 0
    assert lab.status("lost").artifacts == status.artifacts
    assert ends_alike(status)


def _evict(lab: Lab, pod: str) -> None:
    where = (f"--kubeconfig={lab.cluster.kubeconfig}", lab.kubectl.namespace, pod)
    command = [sys.executable, "-m", "devcluster.agent", "evict", "--by=node", *where]
    subprocess.run(command, check=True, timeout=30)


def _drain(lab: Lab, node: str, name: str) -> None:
    """Evict the pods of one run from the node."""
    selector = f"--pod-selector={GROUP}/finetune={name}"
    flags = ("--delete-emptydir-data", "--force", "--timeout=90s")
    lab.kubectl.run("drain", node, selector, *flags, seconds=100)


def _suspended(value: bool) -> str:
    return f'{{"spec": {{"runPolicy": {{"suspend": {str(value).lower()}}}}}}}'


def _stage(status: FineTuneStatus, name: str) -> Any:
    return next((stage for stage in status.stages if stage.name == name), None)


def _state(status: FineTuneStatus, name: str) -> str:
    stage = _stage(status, name)
    return "" if stage is None else str(stage.state)


def _condition(status: FineTuneStatus, kind: str) -> str:
    return next((item.status for item in status.conditions if item.type == kind), "")


def _containers(pod: dict[str, Any]) -> list[str]:
    body = pod["spec"]
    return [item["name"] for item in (*body.get("initContainers", ()), *body["containers"])]


def _runs(pod: dict[str, Any]) -> bool:
    return pod["status"]["phase"] not in ("Succeeded", "Failed")
