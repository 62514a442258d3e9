"""How many CPUs this process may use: a container sees all cores of its node, its limit is in the cgroup."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
THREADS_ENV = "OMP_NUM_THREADS"


def available(cpu_max: Path = CGROUP_V2) -> int:
    """Cores of the affinity mask, and no more than the cgroup's limit rounded up; at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, _, period = cpu_max.read_text().strip().partition(" ")
    except OSError:
        return cores
    if quota == "max" or not period:
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))


def limit_threads() -> int:
    """Make numeric libraries that are imported later use the available CPUs; an explicit setting wins.

    Threads that wait must sleep: when they spin, a step takes 25 times as long on cores that others use too.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return int(os.environ.setdefault(THREADS_ENV, str(available())))
