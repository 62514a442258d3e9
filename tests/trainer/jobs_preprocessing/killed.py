"""The three stages in processes of their own that can be killed: what they leave must equal what undisturbed ones leave."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mochi_api.runfile import RunFile, parse
from mochi_api.spec import S3Spec
from mochi_trainer.graph import Made, Unit, Units, making
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.storage import Manifest, open_store, read_manifest
from mochi_trainer.video import encode_mp4
from tests.trainer.preprocessing_runs import run_file

STAGES = ("trim", "captions", "videos")
MADE = "made.txt"
SECONDS = 120
"""A stage that takes longer hangs."""

CONTEXT = multiprocessing.get_context("forkserver")


def preload() -> None:
    """Let the processes start with everything imported, so that a kill hits the work and not the start."""
    CONTEXT.set_forkserver_preload(
        ["mochi_trainer.jobs.trim", "mochi_trainer.jobs.captions", "mochi_trainer.jobs.videos"]
    )


def stages(
    root: Path, kills: random.Random | None = None, *, longest: float = 2.0, **settings: Any
) -> tuple[dict[str, str], int]:
    """The keys of all stages' outputs, and how many processes were killed; each stage twice at random when asked to.

    `settings` are of the section preprocessing.
    """
    keys: dict[str, str] = {}
    killed = 0
    for stage in STAGES:
        attempt = 1
        for _ in range(2 if kills is not None else 0):
            assert kills is not None
            run = of_attempt(run_file(root, stage=stage, keys=keys, **settings), attempt)
            killed += _killed(run, kills.uniform(0.05, longest))
            attempt += 1
        keys[stage] = _whole(of_attempt(run_file(root, stage=stage, keys=keys, **settings), attempt))
    return keys, killed


def contents(root: Path, keys: dict[str, str]) -> dict[str, str]:
    """Every object of every stage and its SHA-256, and what the stages say of them."""
    found: dict[str, str] = {}
    for stage, key in keys.items():
        manifest = _manifest(root, stage, key)
        found |= {f"{stage}/{name}": entry.sha256 for name, entry in manifest.entries.items()}
        found[f"{stage}/details"] = repr(manifest.details)
    return found


def made(root: Path) -> Counter[str]:
    """How often each unit was made, by all processes, whatever became of them."""
    path = root / MADE
    return Counter(path.read_text().split()) if path.exists() else Counter()


def write_clips(folder: Path, count: int, *, length: int = 9) -> None:
    """Clips of noise, each another, with captions of different lengths."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(7)
    for number in range(count):
        frames = draws.integers(0, 256, (length, 32, 48, 3), dtype=np.uint8)
        encode_mp4(frames, folder / f"clip-{number:02}.mp4", fps=30)
        (folder / f"clip-{number:02}.txt").write_text("noise " * (1 + number % 7) + str(number))


def of_attempt(run: RunFile, attempt: int) -> RunFile:
    """The run file of another attempt."""
    return run.model_copy(update={"run": run.run.model_copy(update={"attempt": attempt})})


def _whole(run: RunFile) -> str:
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_execute, args=(run.to_yaml(), sender))
    process.start()
    assert receiver.poll(SECONDS), f"{run.stage} took longer than {SECONDS} s"
    key = str(receiver.recv())
    process.join(SECONDS)
    return key


def _killed(run: RunFile, after: float) -> bool:
    """Whether it was still at work when it was killed."""
    process = CONTEXT.Process(target=_execute, args=(run.to_yaml(), None))
    process.start()
    process.join(after)
    at_work = process.is_alive()
    process.kill()
    process.join(SECONDS)
    return at_work


def _execute(text: str, sender: object) -> None:
    result = execute_counted(parse(text)).result
    if sender is not None:
        sender.send(result.cache_key)  # type: ignore[attr-defined]


def execute_counted(run: RunFile) -> Finished:
    """The stage of `run`; each unit that is made is written down."""
    import torch

    from mochi_trainer.jobs import captions, trim, videos

    torch.set_num_threads(1)
    root = Path(run.locations.cache.removeprefix("file://")).parent
    (root / "tmp").mkdir(exist_ok=True)
    tempfile.tempdir = str(root / "tmp")  # what is killed leaves its temporary files
    _count(root / MADE)
    job = {"trim": trim, "captions": captions, "videos": videos}[run.stage]
    finished: Finished = job.execute(run)
    return finished


def _count(path: Path) -> None:
    """Write down each unit that is made, before it is stored."""
    stored = making._stored

    def counted(units: Units, done: Made) -> Unit:
        with path.open("a") as file:
            file.write(f"{done.key}\n")
        return stored(units, done)

    making._stored = counted


def _manifest(root: Path, stage: str, key: str) -> Manifest:
    return read_manifest(open_store(f"file://{root}/cache", S3Spec()), f"{stage}/{key}")
