"""Trainings in processes of their own that are killed at random moments: what they leave must equal what an undisturbed one leaves."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mochi_api.runfile import RunFile, parse
from mochi_api.spec import S3Spec
from mochi_trainer.errors import TrainerError
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.group import TIMEOUT_ENV
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import free_port
from tests.trainer.fault_proxy import Fault, Request, Shaped, fault_proxy
from tests.trainer.training_runs import run_file

STEPS: dict[str, Any] = {"steps": 40, "checkpoint": {"everySteps": 5, "keepLast": 2}}
GANG: dict[str, Any] = {
    "mode": "full",
    "replicas": 2,
    "learningRate": "0.001",
    "steps": 24,
    "checkpoint": {"everySteps": 4, "keepLast": 2},
}
"""Two ranks, each with half of all weights."""
GANG_SPEED = 10_000_000
"""Bytes a second of a gang's link: a shard has 8 MB."""
PEERS_SECONDS = 20
"""So long the other ranks have to end by themselves; then the operator would delete their pods."""
SECONDS = 300
"""A training that takes longer hangs."""
CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Kill:
    """What one attempt was doing when it was killed."""

    moment: str
    """`upload` while a checkpoint is under way, `resume` while one is read, else the activity of its sign of life."""
    again: int
    """Steps that it had done and not saved; 0 before its first one."""
    ranks: tuple[int, ...] = (0,)
    """Those that were killed."""
    peers: str = ""
    """How the others ended: `by themselves`, or `told` as by the operator that deletes their pods; empty without others."""


@dataclass
class Told:
    """What an attempt tells, in memory that outlives it."""

    moment: Any
    done: Any
    resumed: Any


def preload() -> None:
    """Let the processes start with everything imported, so that a kill hits the work and not the start."""
    CONTEXT.set_forkserver_preload(["mochi_trainer.jobs.train", "tests.trainer.jobs_training.killed"])


@contextmanager
def slow_link(server: Server, *, bytes_per_second: float = 50_000) -> Iterator[S3Spec]:
    """The server, behind a link on which a shard takes a while, so that kills hit it on its way."""

    def rule(request: Request) -> Fault | None:
        if "/shard-" not in request.path:
            return None
        return Shaped(seconds=0.3) if request.method == "PUT" else Shaped(bytes_per_second=bytes_per_second)

    with fault_proxy(server.spec, rule) as proxy:
        yield proxy.spec


def run_of(root: Path, name: str, spec: S3Spec, **options: Any) -> RunFile:
    """A training whose folder is on the server."""
    run = run_file(root, name=name, **STEPS | options)
    places = run.locations.model_copy(update={"run": f"s3://{BUCKET}/{name}"})
    return run.model_copy(update={"locations": places, "s3": spec})


def left_alone(run: RunFile) -> float:
    """The seconds of an undisturbed training, its start included."""
    started = time.monotonic()
    attempt = _Attempt(run, 1)
    assert attempt.ended_within(SECONDS)
    return time.monotonic() - started


def killed(run: RunFile, folder: Path, kills: random.Random, count: int, *, longest: float) -> list[Kill]:
    """Start attempts and kill each within `longest` seconds, until `count` were killed at work; then let one end.

    `folder` is where the server keeps the run. Asserts that each attempt goes on from the newest complete checkpoint.
    """
    found: list[Kill] = []
    attempt, newest = 1, 0
    while True:
        working = _Attempt(run, attempt)
        latest = (
            longest if found else longest / 4
        )  # else a machine that has become faster sees the end before a kill
        ended = working.ended_within(kills.uniform(0.05, latest) if len(found) < count else SECONDS)
        victims = _victims(kills, run.world.processes)
        peers = "" if ended else working.killed(victims)
        for told in working.told:
            assert told.resumed.value in (-1, newest), (told.resumed.value, newest)
        newest = max(complete(folder), default=0)
        if ended:
            return found
        done = max(told.done.value for told in working.told)
        moment = working.told[victims[0]].moment.value.decode()
        found.append(Kill(moment, max(0, done - newest), victims, peers))
        attempt += 1


def _victims(kills: random.Random, world: int) -> tuple[int, ...]:
    """One rank of those there are, or all of them."""
    everyone = tuple(range(world))
    return everyone if kills.random() < 1 / 3 else (kills.choice(everyone),)


class _Attempt:
    """One attempt of a run, a process for each of its ranks."""

    def __init__(self, run: RunFile, number: int) -> None:
        world, port = run.world.processes, str(free_port())
        mine = run.model_copy(update={"run": run.run.model_copy(update={"attempt": number})}).to_yaml()
        keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self._number = number
        self._room = tempfile.TemporaryDirectory()
        """For what the processes leave when they are killed; it goes with the attempt."""
        self.told = [
            Told(CONTEXT.Array("c", 64), CONTEXT.Value("i", 0), CONTEXT.Value("i", -1)) for _ in range(world)
        ]
        self._processes = [
            CONTEXT.Process(
                target=_execute,
                args=(
                    self._room.name,
                    mine,
                    {**keys, **shared, "RANK": str(rank)},
                    told.moment,
                    told.done,
                    told.resumed,
                ),
            )
            for rank, told in enumerate(self.told)
        ]
        for process in self._processes:
            process.start()

    def ended_within(self, seconds: float) -> bool:
        """Whether all ranks end, and well, within so many seconds; that is asserted of SECONDS."""
        self._joined(self._processes, seconds)
        alive = any(process.is_alive() for process in self._processes)
        if not alive:
            self._room.cleanup()
        codes = [process.exitcode for process in self._processes]
        assert all(code in (None, 0) for code in codes), f"attempt {self._number} ended with {codes}"
        if alive and seconds == SECONDS:
            self.killed(tuple(range(len(self._processes))))
            raise AssertionError(f"attempt {self._number} took longer than {SECONDS} s")
        return not alive

    def killed(self, victims: tuple[int, ...]) -> str:
        """Kill these; the others end by themselves, or are told to: how they did."""
        for rank in victims:
            self._processes[rank].kill()
        others = [process for rank, process in enumerate(self._processes) if rank not in victims]
        self._joined(others, PEERS_SECONDS)
        told = [process for process in others if process.is_alive()]
        for process in told:
            process.terminate()
        self._joined(told, PEERS_SECONDS)
        for process in self._processes:
            process.kill()
            process.join(SECONDS)
        self._room.cleanup()
        return ("told" if told else "by themselves") if others else ""

    def _joined(self, processes: Sequence[Any], seconds: float) -> None:
        end = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))


def _execute(room: str, text: str, place: dict[str, str], moment: Any, done: Any, resumed: Any) -> None:
    from mochi_trainer.jobs import train

    torch.set_num_threads(1)
    own = {"MOCHI_POD_IP": "127.0.0.1", "MOCHI_METRICS_PORT": str(free_port())}
    os.environ.update(place, **own)
    os.environ.setdefault(TIMEOUT_ENV, "60")
    with tempfile.TemporaryDirectory(dir=room) as folder:
        tempfile.tempdir = folder  # a kill leaves it, and nothing outside
        threading.Thread(target=_tell, args=(Path(folder), moment, done), daemon=True).start()
        _log_to(resumed)
        try:
            train.execute(parse(text))
        except (TrainerError, RuntimeError) as error:
            sys.stderr.write(f"rank {place['RANK']}: {type(error).__name__} {error}\n")
            os._exit(1)  # as the command does: threads may hang in a request


def _tell(folder: Path, moment: Any, done: Any) -> None:
    while True:
        sign = PROCESS.heartbeat()
        now = sign.activity
        if any(thread.name == "checkpoint" for thread in threading.enumerate()):
            now = "upload"
        elif any(folder.glob("mochi-checkpoint-*")):
            now = "resume"
        moment.value, done.value = now.encode(), sign.done
        time.sleep(0.005)


def _log_to(resumed: Any) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if found := re.match(r"resumed after step (\d+)", text):
                resumed.value = int(found[1])
            elif text.startswith("no checkpoint"):
                resumed.value = 0

    log = logging.getLogger("mochi_trainer.train.session")
    log.setLevel(logging.INFO)
    log.addHandler(Handler())


def complete(folder: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    return sorted(int(path.parent.name[5:11]) for path in folder.glob("checkpoints/*/manifest.json"))


def result(folder: Path) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """The weights, and the series without its clocks."""
    weights = {
        name: tensor
        for path in (folder / "artifacts").glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    series = [
        {k: v for k, v in line.items() if k not in ("time", "stepSeconds", "dataSeconds")} for line in lines
    ]
    return {name: tensor.tolist() for name, tensor in weights.items()}, series
