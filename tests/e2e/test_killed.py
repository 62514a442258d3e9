"""The operator and the API server are killed again and again, and what runs meanwhile does not notice."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from devcluster import state
from devcluster.binaries import PYTORCHJOB_CRD
from devcluster.cluster import API_SERVER
from mochi_api.identity import GROUP
from mochi_api.status import FineTuneStatus
from tests.e2e.controlplane import CONTROLLERS, kill_an_operator, restarted, scale
from tests.e2e.lab import RESOURCE, Lab, opened
from tests.e2e.pods import hold
from tests.e2e.stories import STEPS, Weights, reasons, same, spec, trained_steps, weights

KILLS = 20
PAUSE_SECONDS = 4.0
"""Longest time an operator is left alone."""
HELD: Mapping[str, int] = {"collected": 100, "forgotten": 10}
"""Runs whose training is held after that step, until the operator is away."""
RUNS = ("killed", *HELD)
COLLECTED_SECONDS = 300.0
CRD = "pytorchjobs.kubeflow.org"

Ended = Mapping[str, FineTuneStatus]


@pytest.fixture(scope="module")
def hostile(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster of its own: what is done to it would disturb every other test."""
    with opened(project, tmp_path_factory.mktemp("hostile") / "cluster", name="hostile") as found:
        yield found


@pytest.fixture(scope="module")
def ended(hostile: Lab) -> Iterator[Ended]:
    """Three runs, their operator killed 20 times, the API server once, one's pods collected, one's status wiped."""
    for name in RUNS:
        hostile.apply(name, spec())
    with ExitStack() as parts:
        with ThreadPoolExecutor(len(HELD)) as pool:
            holding = {
                name: pool.submit(hold, hostile, name, attempt=1, step=step) for name, step in HELD.items()
            }
            kill_again_and_again(hostile)
            held = {name: future.result() for name, future in holding.items()}
        hostile.succeeded("killed")
        scale(hostile, 0)
        wipe_the_training(hostile, "forgotten")
        held["collected"].release()
        collect_the_pods(hostile, "collected", parts)
        scale(hostile, 1)
        hostile.until("forgotten", lambda s: bool(s.attempts), "an attempt that it knows again")
        held["forgotten"].release()
        yield {name: hostile.succeeded(name) for name in RUNS}


def kill_again_and_again(lab: Lab) -> None:
    """The only operator ten times, then the API server, then one of two operators ten times."""
    seed = random.SystemRandom().randrange(10**6)
    sys.stdout.write(f"the operator is killed with seed {seed}\n")
    choice = random.Random(seed)
    kill(lab, choice, KILLS // 2)
    lab.cluster.restart(API_SERVER)
    scale(lab, 2)
    kill(lab, choice, KILLS - KILLS // 2)


def kill(lab: Lab, choice: random.Random, times: int) -> None:
    """Kill operators at random moments of their lives."""
    left, end = times, time.monotonic() + times * 30
    while left:
        assert time.monotonic() < end, f"{left} of {times} operators could not be killed"
        time.sleep(choice.uniform(0, PAUSE_SECONDS))
        left -= kill_an_operator(lab, choice)


def wipe_the_training(lab: Lab, name: str) -> None:
    """As if the operator had died between the creation of the training and the word of it in the status."""
    change = json.dumps({"status": {"attempts": [], "training": None}})
    lab.kubectl.run("patch", RESOURCE, name, "--subresource=status", "--type=merge", "-p", change)


def collect_the_pods(lab: Lab, name: str, parts: ExitStack) -> None:
    """Kubernetes collects the pods of the training that has succeeded, because there are newer ones that have ended."""
    lab.kubectl.run(
        "wait", f"pytorchjob/{name}-a1", "--for=condition=Succeeded", "--timeout=180s", seconds=190
    )
    image = lab.kubectl.json("get", RESOURCE, name)["status"]["resolved"]["image"]
    elsewhere = lab.kubectl.within("default")
    elsewhere.run("run", "newer", f"--image={image}", "--restart=Never", "--command", "--", "true")
    elsewhere.run(
        "wait", "pod/newer", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=180s", seconds=190
    )
    parts.enter_context(restarted(lab, CONTROLLERS, "--terminated-pod-gc-threshold=1"))
    end = time.monotonic() + COLLECTED_SECONDS
    while lab.pods(name, "stage=train"):
        assert time.monotonic() < end, f"the pods of {name} are not collected\n{lab.evidence(name)}"
        time.sleep(1)


def test_a_killed_operator_loses_no_step_and_makes_none_twice(ended: Ended) -> None:
    for status in ended.values():
        assert [stage.name for stage in status.stages if len(stage.attempts) != 1] == []
    assert reasons(ended["killed"]) == ["Completed"]


def test_training_whose_pods_were_collected_is_done_again_from_its_last_checkpoint(ended: Ended) -> None:
    assert reasons(ended["collected"]) == ["ArtifactsMissing", "Completed"]


def test_an_attempt_that_the_status_does_not_know_is_adopted(ended: Ended, hostile: Lab) -> None:
    assert reasons(ended["forgotten"]) == ["Completed"]
    trainings = hostile.kubectl.run("get", "pytorchjobs", "-l", f"{GROUP}/finetune=forgotten", "-o", "name")
    assert trainings.split() == ["pytorchjob.kubeflow.org/forgotten-a1"]


@pytest.mark.parametrize("name", RUNS)
def test_each_run_ends_with_the_weights_of_one_left_alone(
    name: str, ended: Ended, hostile: Lab, left_alone: Callable[[], Weights], tmp_path: Path
) -> None:
    assert trained_steps(hostile, ended[name]) == list(range(1, STEPS + 1))
    assert same(weights(hostile, ended[name], tmp_path), left_alone())


def test_a_cluster_without_pytorchjobs_is_told_and_waited_for(ended: Ended, hostile: Lab) -> None:
    hostile.kubectl.run("delete", "crd", CRD, "--timeout=180s", seconds=190)
    hostile.apply("early", spec())
    hostile.told("early", "the missing kind", "PyTorchJob", "kubeflow.org/v1")
    hostile.warned("early", "PyTorchJob", "kubeflow.org/v1")
    found = state.read(hostile.cluster.dir)
    assert found is not None
    hostile.kubectl.run("apply", "--server-side", "-f", found.binaries[PYTORCHJOB_CRD])
    hostile.until("early", lambda s: bool(s.stages), "the first step", 90)
    hostile.delete("early")
