"""Parts of the control plane and the operator's own pods, killed and started again."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.install import RELEASE
from demo.kubectl import KubectlError
from devcluster import processes, state
from devcluster.agent import linux
from tests.e2e.lab import Lab
from tests.e2e.pods import OPERATOR, processes_of

CONTROLLERS = "kube-controller-manager"
BACK_SECONDS = 240.0
"""Longest time until something that was killed works again."""
_OPERATORS = f"app.kubernetes.io/name={RELEASE}"


def scale(lab: Lab, replicas: int) -> None:
    """Run so many operators, and wait until no other is left."""
    lab.operator.run("scale", "deployment", RELEASE, f"--replicas={replicas}")
    _until(lambda: len(_operators(lab)) == replicas, f"{replicas} operators")


def kill_an_operator(lab: Lab, choice: random.Random) -> bool:
    """SIGKILL to an operator, if one runs; its pod goes with it, so that no back-off delays the next one."""
    found = [(pod, item) for pod in _operators(lab) for item in processes_of(lab, pod, OPERATOR)]
    if not found:
        return False
    pod, process = choice.choice(found)
    processes.send([process], signal.SIGKILL)
    lab.operator.run(
        "delete", "pod", pod, "--force", "--grace-period=0", "--wait=false", "--ignore-not-found"
    )
    return True


@contextmanager
def restarted(lab: Lab, part: str, *flags: str) -> Iterator[None]:
    """The part is killed and runs anew, with `flags` at the end of its command line, as long as the context lasts."""
    process = _part(lab, part)
    command = Path(f"/proc/{process.pid}/cmdline").read_text().rstrip("\0").split("\0")
    folder = Path(f"/proc/{process.pid}/cwd").resolve()
    assert processes.end([process], grace=0), f"{part} does not end"
    with (lab.cluster.dir / "logs" / f"{part}.log").open("ab") as log:
        anew = subprocess.Popen(
            [*command, *flags],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=functools.partial(linux.die_with_parent, os.getpid(), signal.SIGKILL),
        )
    try:
        _until(lambda: _answers(lab), f"{part} after its restart")
        yield
    finally:
        anew.kill()
        anew.wait()


def _answers(lab: Lab) -> bool:
    try:
        return lab.kubectl.run("get", "--raw", "/readyz", seconds=5) == "ok"
    except KubectlError:
        return False


def _operators(lab: Lab) -> list[str]:
    """Names of the operator's pods that have not been told to end."""
    pods = lab.operator.json("get", "pods", "-l", _OPERATORS)["items"]
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def _part(lab: Lab, name: str) -> processes.Identity:
    found = state.read(lab.cluster.dir)
    assert found is not None
    return next(part.process for part in found.parts if part.name == name)


def _until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + BACK_SECONDS
    while not true():
        assert time.monotonic() < end, f"{what}: not within {BACK_SECONDS:.0f} s"
        time.sleep(0.3)
