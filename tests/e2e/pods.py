"""The processes of pods, which the node agent runs on this machine: a test may hold, kill or count them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster import state
from devcluster.processes import Identity, descendants, send
from mochi_api import layout
from tests.e2e.lab import RUN_SECONDS, Lab

OPERATOR = "mochi_operator"
TRAINER = "mochi_trainer"


def processes_of(lab: Lab, pod: str, program: str = TRAINER) -> list[Identity]:
    """The processes of `program` in the pod, on whichever of our nodes it runs; parents first."""
    found = state.read(lab.cluster.dir)
    assert found is not None, f"no cluster in {lab.cluster.dir}"
    below = {*descendants(found.supervisor.pid), *descendants(os.getpid())}
    return sorted((item for item in below if _runs(item.pid, pod, program)), key=lambda item: item.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A pod whose processes are stopped, as those of a machine that hangs."""

    pod: str
    processes: Sequence[Identity]

    def release(self) -> None:
        """Let it go on: whatever was done to it meanwhile, it meets now."""
        send(self.processes, signal.SIGCONT)


def hold(lab: Lab, name: str, *, attempt: int, step: int, rank: int = 0) -> Held:
    """Stop a training pod once its attempt has a complete checkpoint of `step` or more.

    So no test depends on who is faster: whatever is done to the pod, it meets in the middle of its work.
    """
    pod = f"{name}-a{attempt}-worker-{rank}"
    _until_saved(lab, name, attempt, step)
    found = processes_of(lab, pod)
    send(found, signal.SIGSTOP)
    assert any(item.alive() for item in found), f"pod {pod} has ended already\n{lab.evidence(name)}"
    return Held(pod=pod, processes=found)


@contextmanager
def held_at(lab: Lab, name: str, *, attempt: int, step: int) -> Iterator[str]:
    """The pod that `hold` stops, until the context ends."""
    held = hold(lab, name, attempt=attempt, step=step)
    try:
        yield held.pod
    finally:
        held.release()


def _until_saved(lab: Lab, name: str, attempt: int, step: int) -> None:
    """Wait for a checkpoint of the attempt; only the store is asked, for the API server may be down."""
    run = lab.run_uri(name)
    end = time.monotonic() + RUN_SECONDS
    while not any(saved >= step for saved in saved_steps(lab, run, attempt)):
        assert time.monotonic() < end, f"{name}: no checkpoint of step {step}\n{lab.evidence(name)}"
        time.sleep(0.1)


def saved_steps(lab: Lab, run: str, attempt: int) -> list[int]:
    """Steps of the checkpoints of an attempt that are complete: they have their manifest."""
    bucket = lab.site.bucket
    keys = [key for key, _ in bucket.keys(bucket.key_of(layout.join(run, "checkpoints")) + "/")]
    folders = {Path(key).parent.name for key in keys if key.endswith(f"/{layout.MANIFEST}")}
    steps = sorted(int(name.split("-")[1]) for name in folders)
    return [step for step in steps if Path(layout.checkpoint(run, step, attempt)).name in folders]


def _runs(pid: int, pod: str, program: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return program.encode() in words and f"HOSTNAME={pod}".encode() in environment
