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


def hold(lab: Lab, name: str, *, attempt: int, step: int) -> Held:
    """Stop the training pod of `name` once its checkpoint of `step` is complete. So no test depends on who is faster."""
    pod = f"{name}-a{attempt}-worker-0"
    _until_saved(lab, name, step)
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


def _until_saved(lab: Lab, name: str, step: int) -> None:
    """Wait for a complete checkpoint after `step` or more; only the store is asked, for the API server may be down."""
    run = lab.run_uri(name)
    end = time.monotonic() + RUN_SECONDS
    while not any(saved >= step for saved in complete_checkpoints(lab, run)):
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
