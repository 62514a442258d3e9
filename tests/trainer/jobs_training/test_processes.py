"""A pod with several GPUs, as it is: the command train, which starts a process for each, on the CPU.

Losses, checkpoints and weights are those of as many pods with one process each, bit for bit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mochi_api.heartbeat import LINE_PREFIX
from mochi_api.outcomes import Outcome, Reason
from mochi_api.runfile import RunFile
from mochi_trainer.jobs import train
from tests.trainer.distributed import free_port, run_distributed
from tests.trainer.training_runs import run_file, write_dataset

LIMIT = 240.0
"""Seconds that anything here is waited for: each process imports torch."""
FULL: dict[str, Any] = {"mode": "full", "globalBatchSize": 4, "steps": 4, "learningRate": "0.001"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_dataset(folder)
    return folder


class Pod:
    """The container of one training pod."""

    def __init__(self, run: RunFile, folder: Path, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "run.yaml"
        file.write_text(run.to_yaml())
        self.metrics = free_port()
        self._log, self._left = folder / "log", folder / "termination"
        environment = {
            name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")
        }
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mochi_trainer", "train", "--run", file],
                env=environment
                | {
                    "OMP_NUM_THREADS": "1",
                    "MOCHI_POD_IP": "127.0.0.1",
                    "MOCHI_METRICS_PORT": str(self.metrics),
                    "MOCHI_COLLECTIVE_TIMEOUT_SECONDS": "120",
                    "MOCHI_TERMINATION_LOG": str(self._left),
                    **variables,
                },
                stderr=log,
                stdout=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Those of its log that are JSON."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def ended(self) -> tuple[int, Outcome]:
        code = self.process.wait(timeout=LIMIT)
        assert self._left.exists(), self.log
        return code, Outcome.model_validate_json(self._left.read_text())

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in path.read_text().split()]


@contextmanager
def pods(*made: Pod) -> Iterator[tuple[Pod, ...]]:
    """Whatever happens none is left; the processes of a pod end with the first of them."""
    try:
        yield made
    finally:
        for pod in made:
            pod.process.kill()
            pod.process.wait()


def wait_until(condition: Callable[[], bool], what: str, pod: Pod) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {LIMIT:g} s: {pod.log}"
        assert pod.process.poll() is None, f"{what} did not come: {pod.log}"
        time.sleep(0.05)


def rank_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(each.decode().partition("=")[2] for each in variables if each.startswith(b"RANK="))


def numbers(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("time", "stepSeconds", "dataSeconds")} for line in lines
    ]


def same_files(one: Path, other: Path, pattern: str) -> int:
    """How many files of `pattern` both folders have; each of them has the same tensors in both."""
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.glob(pattern)) for folder in (one, other)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        ours, theirs = load_file(one / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(tensor) for key, tensor in theirs.items()), name
    return len(names[0])


def assert_same(root: Path, one: str, other: str, *, shards: int) -> None:
    """Two runs have the same losses, weights and states."""
    ours, theirs = root / "runs" / one, root / "runs" / other
    assert numbers(ours) == numbers(theirs)
    assert same_files(ours, theirs, "artifacts/dit.safetensors") == 1
    assert same_files(ours, theirs, "checkpoints/*/shard-*.safetensors") == shards


@pytest.fixture(scope="module")
def two_pods(root: Path) -> str:
    """The run of two pods with a process each."""
    run_distributed(train.execute, 2, run_file(root, name="two-by-one", replicas=2, **FULL))
    return "two-by-one"


def test_a_pod_of_two_processes_trains_what_two_pods_of_one_train(
    root: Path, two_pods: str, tmp_path: Path
) -> None:
    run = run_file(root, name="one-by-two", gpus=2, **FULL)
    with pods(Pod(run, tmp_path)) as (pod,):
        wait_until(lambda: "checkpoint of step 2 saved" in pod.log, "step 2", pod)
        with urllib.request.urlopen(f"http://127.0.0.1:{pod.metrics}/progress", timeout=30) as answer:
            assert json.load(answer)["totalSteps"] == 4
        code, outcome = pod.ended()
    assert (code, outcome.reason, outcome.rank) == (0, Reason.COMPLETED, 0)
    assert outcome.training_result is not None
    assert outcome.training_result.final_step == 4
    assert_same(root, two_pods, "one-by-two", shards=4)
    trained = [line for line in pod.lines if line["logger"] == "mochi_trainer.train.session"]
    assert {line["rank"] for line in trained} == {0, 1}
    attempts = [line for line in pod.log.splitlines() if line.startswith(LINE_PREFIX)]
    assert len([line for line in attempts if '"starting"' in line]) == 1
    assert not [line for line in pod.lines if "no /metrics and /progress" in line["message"]]
    assert not list((root / "runs/one-by-two").glob("**/train-rank-1*"))


def test_two_pods_of_two_processes_train_what_four_pods_of_one_train(root: Path, tmp_path: Path) -> None:
    run_distributed(train.execute, 4, run_file(root, name="four-by-one", replicas=4, **FULL), limit=LIMIT)
    run, port = run_file(root, name="two-by-two", replicas=2, gpus=2, **FULL), str(free_port())
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": "0"}
    with pods(*(Pod(run, tmp_path / f"{pod}", RANK=str(pod), **place) for pod in range(2))) as made:
        ends = [pod.ended() for pod in made]
    assert [(code, outcome.reason, outcome.rank) for code, outcome in ends] == [
        (0, Reason.COMPLETED, 0),
        (0, Reason.COMPLETED, 2),
    ]
    assert ends[1][1].training_result is None
    assert_same(root, "four-by-one", "two-by-two", shards=8)
    assert [sorted({line["rank"] for line in pod.lines if "rank" in line}) for pod in made] == [
        [0, 1],
        [2, 3],
    ]


def test_sigterm_saves_and_the_next_attempt_goes_on_as_if_nothing_had_been(
    root: Path, two_pods: str, tmp_path: Path
) -> None:
    run = run_file(
        root, name="stopped", gpus=2, **FULL | {"steps": 100_000, "warmupSteps": 2, "schedule": "Constant"}
    )
    checkpoints = root / "runs/stopped/checkpoints"
    with pods(Pod(run, tmp_path / "1")) as (pod,):
        wait_until((checkpoints / "step-000002/manifest.json").exists, "step 2", pod)
        pod.process.send_signal(signal.SIGTERM)
        code, outcome = pod.ended()
    assert (code, outcome.reason) == (143, Reason.PREEMPTED)
    assert outcome.step is not None
    assert outcome.message == f"stopped by SIGTERM after step {outcome.step}, saved at step {outcome.step}"
    assert (checkpoints / f"step-{outcome.step:06d}/manifest.json").exists()
    longer = FULL | {"steps": outcome.step + 2, "warmupSteps": 2, "schedule": "Constant"}
    run_distributed(train.execute, 2, run_file(root, name="undisturbed", replicas=2, **longer), limit=LIMIT)
    again = run_file(root, name="stopped", gpus=2, **longer)
    again = again.model_copy(update={"run": again.run.model_copy(update={"attempt": 2})})
    with pods(Pod(again, tmp_path / "2")) as (pod,):
        code, _ = pod.ended()
    assert code == 0, pod.log
    assert [line for line in pod.lines if f"resumed after step {outcome.step}" in line["message"]]
    ours, theirs = (root / "runs" / name for name in ("stopped", "undisturbed"))
    assert numbers(ours)[-2:] == numbers(theirs)[-2:]
    assert same_files(ours, theirs, "artifacts/dit.safetensors") == 1


def test_a_process_that_is_killed_ends_its_pod_which_says_so(root: Path, tmp_path: Path) -> None:
    run = run_file(root, name="killed", gpus=2, **FULL | {"steps": 100_000})
    with pods(Pod(run, tmp_path)) as (pod,):
        wait_until((root / "runs/killed/checkpoints/step-000002/manifest.json").exists, "step 2", pod)
        others = {rank_of(pid): pid for pid in pod.children()}
        os.kill(others["1"], signal.SIGKILL)
        code, outcome = pod.ended()
    assert code == 137
    assert outcome == Outcome(
        reason=Reason.UNKNOWN, message="rank 1 was killed by SIGKILL and left no outcome", rank=1
    )
    assert not Path(f"/proc/{others['0']}").exists()


def test_what_is_wrong_for_all_is_said_once_with_its_own_reason(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pods(Pod(run_file(tmp_path / "empty", gpus=2, **FULL), tmp_path)) as (pod,):
        code, outcome = pod.ended()
    assert (code, outcome.reason) == (3, Reason.MISSING_OBJECT)
    assert "output of the stage videos is not complete" in outcome.message


def test_a_pod_that_does_not_fit_the_run_file_is_refused_before_any_process_starts(tmp_path: Path) -> None:
    with pods(Pod(run_file(tmp_path, replicas=2, gpus=2, **FULL), tmp_path, WORLD_SIZE="3", RANK="0")) as (
        pod,
    ):
        code, outcome = pod.ended()
    assert (code, outcome.reason) == (2, Reason.INVALID_INPUT)
    assert outcome.message == "WORLD_SIZE must be 2, as the world of the run file says, got 3"
