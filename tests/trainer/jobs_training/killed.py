"""Trainings in processes of their own that are killed at random moments: what they leave must equal what an undisturbed one leaves."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mochi_api.runfile import RunFile, parse
from mochi_api.spec import S3Spec
from mochi_trainer.movement import PROCESS
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import free_port
from tests.trainer.fault_proxy import Fault, Request, Shaped, fault_proxy
from tests.trainer.training_runs import run_file

STEPS: dict[str, Any] = {"steps": 40, "checkpoint": {"everySteps": 5, "keepLast": 2}}
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
def slow_link(server: Server) -> Iterator[S3Spec]:
    """The server, behind a link on which a shard takes a while, so that kills hit it on its way."""

    def rule(request: Request) -> Fault | None:
        if "/shard-" not in request.path:
            return None
        return Shaped(seconds=0.3) if request.method == "PUT" else Shaped(bytes_per_second=50_000)

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
    _, ended = _attempt(run, 1, SECONDS)
    assert ended
    return time.monotonic() - started


def killed(run: RunFile, folder: Path, kills: random.Random, count: int, *, longest: float) -> list[Kill]:
    """Start attempts and kill each within `longest` seconds, until `count` were killed at work; then let one end.

    `folder` is where the server keeps the run. Asserts that each attempt goes on from the newest complete checkpoint.
    """
    found: list[Kill] = []
    attempt, newest = 1, 0
    while True:
        after = kills.uniform(0.05, longest) if len(found) < count else SECONDS
        told, ended = _attempt(run, attempt, after)
        assert told.resumed.value in (-1, newest), (told.resumed.value, newest)
        newest = max(complete(folder), default=0)
        if ended:
            return found
        found.append(Kill(told.moment.value.decode(), max(0, told.done.value - newest)))
        attempt += 1


def _attempt(run: RunFile, number: int, seconds: float) -> tuple[Told, bool]:
    """Whether it ended by itself within so many seconds; else it is killed."""
    told = Told(CONTEXT.Array("c", 64), CONTEXT.Value("i", 0), CONTEXT.Value("i", -1))
    mine = run.model_copy(update={"run": run.run.model_copy(update={"attempt": number})})
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = CONTEXT.Process(
        target=_execute, args=(mine.to_yaml(), keys, told.moment, told.done, told.resumed)
    )
    process.start()
    process.join(seconds)
    ended = not process.is_alive()
    process.kill()
    process.join(SECONDS)
    assert not ended or process.exitcode == 0, f"attempt {number} ended with {process.exitcode}"
    assert ended or seconds < SECONDS, f"attempt {number} took longer than {SECONDS} s"
    return told, ended


def _execute(text: str, keys: dict[str, str], moment: Any, done: Any, resumed: Any) -> None:
    from mochi_trainer.jobs import train

    torch.set_num_threads(1)
    os.environ.update(keys, MOCHI_POD_IP="127.0.0.1", MOCHI_METRICS_PORT=str(free_port()))
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # a kill leaves it, and nothing outside
        threading.Thread(target=_tell, args=(Path(folder), moment, done), daemon=True).start()
        _log_to(resumed)
        train.execute(parse(text))


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
    weights = load_file(folder / "artifacts/lora.safetensors")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    series = [
        {k: v for k, v in line.items() if k not in ("time", "stepSeconds", "dataSeconds")} for line in lines
    ]
    return {name: tensor.tolist() for name, tensor in weights.items()}, series
