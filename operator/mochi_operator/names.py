"""Names, labels and ports of children: functions of (name, step, attempt) and nothing else."""

from __future__ import annotations

import hashlib

from mochi_api import identity

PART_OF = "mochi-operator"
APP_NAME = "mochi-trainer"

_PORT_FIRST = 20_000
_PORT_COUNT = 10_000


def child(name: str, step: str, attempt: int) -> str:
    """Name of what runs one attempt of a step: a Job, or the training object.

    `<name>-a<n>` for the training. Elsewhere `<name>-<step>`, which is also what an earlier version called its only try,
    and from the second attempt on `<name>-<step>-<n>`.
    """
    if step == "train":
        return f"{name}-a{attempt}"
    return f"{name}-{step}" if attempt == 1 else f"{name}-{step}-{attempt}"


def attempt_of(job: str, step: str) -> int:
    """Number of the attempt that a Job of a step runs, from the Job's name alone."""
    _, _, number = job.rpartition(f"-{step}-")
    return int(number) if number.isdigit() else 1


def child_kind(step: str) -> str:
    """Kind of what runs an attempt of a step, as people call it."""
    return "PyTorchJob" if step == "train" else "Job"


def run_config(child: str) -> str:
    """Name of the ConfigMap with the run file of `child`."""
    return f"{child}-run"


def master_address(job: str) -> str:
    """Host name of rank 0: the headless Service that the training operator makes for each worker."""
    return f"{job}-worker-0"


def master_port(namespace: str, job: str) -> int:
    """Port of the rendezvous, in 20000..29999, always the same for the same job.

    One fixed port would do with a network of its own for each pod; pods on the host's network, and the pods of the
    development cluster, share ports, so that two runs side by side would meet.
    """
    digest = hashlib.sha256(f"{namespace}/{job}".encode()).digest()
    return _PORT_FIRST + int.from_bytes(digest[:4], "big") % _PORT_COUNT


def labels(name: str, uid: str, step: str, attempt: int) -> dict[str, str]:
    """Labels of everything made for a run, a fresh dict for each caller."""
    return {
        identity.LABEL_FINETUNE: name,
        identity.LABEL_UID: uid,
        identity.LABEL_STAGE: step,
        identity.LABEL_ATTEMPT: str(attempt),
        "app.kubernetes.io/name": APP_NAME,
        "app.kubernetes.io/part-of": PART_OF,
        "app.kubernetes.io/managed-by": PART_OF,
    }
