"""The three stages, each shared by several processes that start together as the pods of an Indexed Job do."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from mochi_api.identity import SHARD_ENV
from mochi_api.runfile import RunFile, parse
from tests.trainer.jobs_preprocessing.killed import CONTEXT, SECONDS, STAGES, execute_counted, of_attempt
from tests.trainer.preprocessing_runs import run_file

Words = tuple[str, str]
"""Key of the output, empty from a shard that tells none, and the message."""


def stages(
    root: Path, count: int, kills: random.Random | None = None, *, longest: float = 3.0
) -> tuple[dict[str, str], dict[str, Sequence[Words]], int]:
    """Keys of all outputs, what each shard said by stage, and how many processes were killed.

    With `kills` each stage has two attempts before its last, in which one shard dies at a random moment and the others
    with it, as the operator ends an attempt.
    """
    keys: dict[str, str] = {}
    said: dict[str, Sequence[Words]] = {}
    killed = 0
    for stage in STAGES:
        attempt = 1
        for _ in range(2 if kills is not None else 0):
            assert kills is not None
            killed += _killed(
                root, _run(root, stage, keys, attempt, count), count, kills.uniform(0.1, longest)
            )
            attempt += 1
        said[stage] = _whole(root, _run(root, stage, keys, attempt, count), count)
        keys[stage] = said[stage][0][0]
    return keys, said, killed


def _run(root: Path, stage: str, keys: Mapping[str, str], attempt: int, count: int) -> RunFile:
    shards = {name: {"shards": count} for name in STAGES}
    return of_attempt(run_file(root, stage=stage, keys=dict(keys), **shards), attempt)


def _begun(run: RunFile, count: int) -> list[tuple[BaseProcess, Connection]]:
    found: list[tuple[BaseProcess, Connection]] = []
    for index in range(count):
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_shard, args=(run.to_yaml(), index, sender))
        process.start()
        found.append((process, receiver))
    return found


def _whole(root: Path, run: RunFile, count: int) -> list[Words]:
    said: list[Words] = []
    for process, receiver in _begun(run, count):
        assert receiver.poll(SECONDS), f"a shard of {run.stage} took longer than {SECONDS} s"
        said.append(receiver.recv())
        process.join(SECONDS)
    return said


def _killed(root: Path, run: RunFile, count: int, after: float) -> int:
    processes = [process for process, _ in _begun(run, count)]
    time.sleep(after)
    at_work = sum(process.is_alive() for process in processes)
    for process in processes:
        process.kill()
        process.join(SECONDS)
    return at_work


def _shard(text: str, index: int, sender: Connection) -> None:
    os.environ[SHARD_ENV] = str(index)
    finished = execute_counted(parse(text))
    key = finished.result.cache_key if finished.result is not None else ""  # type: ignore[union-attr]
    sender.send((key, finished.message))
