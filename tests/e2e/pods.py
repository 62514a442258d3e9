"""The processes of pods, which the node agent runs on this machine: a test may hold, kill or count them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from devcluster import processes, state
from mochi_api import layout
from tests.e2e.lab import RUN_SECONDS, Lab

OPERATOR = "mochi_operator"
TRAINER = "mochi_trainer"


def processes_of(lab: Lab, pod: str, program: str = TRAINER) -> list[processes.Identity]:
    """The processes of `program` in the pod, on whichever of our nodes it runs; parents first."""
    found = state.read(lab.cluster.dir)
    assert found is not None, f"no cluster in {lab.cluster.dir}"
    below = {*processes.descendants(found.supervisor.pid), *processes.descendants(os.getpid())}
    return sorted((item for item in below if _runs(item.pid, pod, program)), key=lambda item: item.start)


@contextmanager
def held_at(lab: Lab, name: str, attempt: int, step: int) -> Iterator[str]:
    """The training pod of `name`, stopped as a machine that hangs, once its checkpoint of `step` is complete.

    Whatever is done to it meanwhile, it meets when it goes on. So no test depends on who is faster.
    """
    pod = f"{name}-a{attempt}-worker-0"
    _until_saved(lab, name, step)
    held = _stopped(lab, pod)
    try:
        yield pod
    finally:
        processes.send(held, signal.SIGCONT)


def _stopped(lab: Lab, pod: str) -> Sequence[processes.Identity]:
    held = processes_of(lab, pod)
    processes.send(held, signal.SIGSTOP)
    assert any(item.alive() for item in held), f"pod {pod} has ended already"
    return held


def _until_saved(lab: Lab, name: str, step: int) -> None:
    """Wait for a complete checkpoint after `step` or more."""
    run = lab.run_uri(name)
    end = time.monotonic() + RUN_SECONDS
    while not any(saved >= step for saved in complete_checkpoints(lab, run)):
        assert lab.status(name).phase != "Failed", lab.evidence(name)
        assert time.monotonic() < end, f"{name}: no checkpoint of step {step}\n{lab.evidence(name)}"
        time.sleep(0.2)


def complete_checkpoints(lab: Lab, run: str) -> list[int]:
    """Steps of the checkpoints that have their manifest."""
    bucket = lab.site.bucket
    keys = [key for key, _ in bucket.keys(bucket.key_of(layout.join(run, "checkpoints")) + "/")]
    saved = [Path(key).parent.name for key in keys if key.endswith(f"/{layout.MANIFEST}")]
    return sorted(int(name.removeprefix("step-")) for name in saved)


def _runs(pid: int, pod: str, program: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return program.encode() in words and f"HOSTNAME={pod}".encode() in environment
