"""SIGTERM to any of several ranks ends all of them soon, also while one waits for the store and the others for that one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from mochi_api.runfile import RunFile
from mochi_trainer.data import batch_indices
from mochi_trainer.weights import load_dit, save_weights
from tests.trainer.cli.test_stopped_training import READS, SECONDS, on_server
from tests.trainer.conftest import Server
from tests.trainer.distributed import free_port
from tests.trainer.fault_proxy import Fault, Request, Shaped, fault_proxy
from tests.trainer.training_runs import write_dataset

RANKS = 2
CLIPS = 40
HANGS = Shaped(seconds=SECONDS + 15)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped-gang")
    write_dataset(folder, clips=CLIPS)
    (folder / "model").mkdir()
    save_weights(load_dit("nano"), folder / "model/dit.safetensors", dtype=torch.float32, metadata={})
    return folder


def gang(root: Path, server: Server, name: str, **options: object) -> RunFile:
    """A full fine-tuning in two pods that holds no clip out."""
    return on_server(root, server, name, mode="full", replicas=RANKS, validation={"clips": 0}, **options)


@contextmanager
def started(run: RunFile, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Its ranks, for the length of the block."""
    folder.mkdir()
    (folder / "run.yaml").write_text(run.to_yaml())
    shared = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "mochi_trainer", "train", "--run", str(folder / "run.yaml")]
    with ExitStack() as stack:
        ranks = []
        for rank in range(RANKS):
            own = {
                "RANK": str(rank),
                "MOCHI_TERMINATION_LOG": str(folder / f"termination-{rank}"),
                "MOCHI_POD_IP": "127.0.0.1",
                "MOCHI_METRICS_PORT": str(free_port()),
                "TMPDIR": str(folder),
            }
            log = stack.enter_context((folder / f"log-{rank}").open("wb"))
            process = subprocess.Popen(command, env={**os.environ, **shared, **own}, stderr=log)
            ranks.append(stack.enter_context(process))
            stack.callback(process.kill)
        yield ranks


def stopped(
    run: RunFile, folder: Path, ready: Callable[[], bool], told: Sequence[int]
) -> list[tuple[int, str]]:
    """Exit code and reason of each rank, when those in `told` get SIGTERM as soon as it is `ready`."""
    with started(run, folder) as ranks:
        end = time.monotonic() + 180
        while not ready():
            logs = [(folder / f"log-{rank}").read_text() for rank in range(RANKS)]
            assert all(rank.poll() is None for rank in ranks), logs
            assert time.monotonic() < end, logs
            time.sleep(0.05)
        for rank in told:
            ranks[rank].send_signal(signal.SIGTERM)
        end = time.monotonic() + SECONDS
        codes = [rank.wait(timeout=max(0.1, end - time.monotonic())) for rank in ranks]
    reasons = [json.loads((folder / f"termination-{rank}").read_text())["reason"] for rank in range(RANKS)]
    return list(zip(codes, reasons, strict=True))


def clip_of(step: int, rank: int, run: RunFile) -> str:
    """The clip that a rank takes in a step, from 1: no two steps of an epoch have the same."""
    names = sorted(f"clip-{number}" for number in range(CLIPS))
    return names[batch_indices(CLIPS, seed=run.training.seed, step=step - 1, batch=RANKS)[rank]]


@pytest.mark.parametrize(("waits", "told"), [(0, [1]), (1, [0]), (1, [0, 1])])
def test_the_steps_before_are_saved_when_one_rank_waits_for_its_clip_and_the_other_for_that_rank(
    root: Path, tmp_path: Path, s3_server: Server, waits: int, told: list[int]
) -> None:
    """One clip hangs for longer than anybody is given to end; the other rank has its own."""
    run = gang(root, s3_server, f"gang-{waits}-{len(told)}")
    evaluated = sorted(f"clip-{number}" for number in range(CLIPS))[:4]
    step = next(step for step in range(6, 20) if clip_of(step, waits, run) not in evaluated)
    hanging = clip_of(step, waits, run)
    seen: list[float] = []

    def rule(request: Request) -> Fault | None:
        if request.method != "GET" or f"/{hanging}.safetensors" not in request.path:
            return None
        seen.append(time.monotonic())
        return HANGS

    def stands() -> bool:
        return bool(seen) and time.monotonic() - seen[0] > 10

    with fault_proxy(s3_server.spec, rule) as proxy:
        slow = run.model_copy(update={"s3": proxy.spec})
        assert stopped(slow, tmp_path / "pods", stands, told) == [(143, "Preempted")] * RANKS
    (saved,) = (s3_server.folder / run.run.name / "run").glob("checkpoints/*/manifest.json")
    assert json.loads(saved.read_text())["details"]["position"]["step"] == step - 1


@pytest.mark.parametrize("what", ["the dataset", "the weights", "the list of checkpoints"])
def test_sigterm_is_heard_by_all_ranks_while_one_of_them_loads(
    root: Path, tmp_path: Path, s3_server: Server, what: str
) -> None:
    """The first rank that asks is answered too late; the others wait for it."""
    seen: list[float] = []

    def rule(request: Request) -> Fault | None:
        if seen or not READS[what](request):
            return None
        seen.append(time.monotonic())
        return HANGS

    run = gang(root, s3_server, "gang-" + what.replace(" ", "-"))
    with fault_proxy(s3_server.spec, rule) as proxy:
        slow = run.model_copy(update={"s3": proxy.spec})
        ends = stopped(slow, tmp_path / "pods", lambda: bool(seen), [0, 1])
    assert ends == [(143, "Preempted")] * RANKS
    assert not list((s3_server.folder / run.run.name / "run").glob("checkpoints/*"))
