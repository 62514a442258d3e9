"""What the cgroup says of this container: how many CPUs it may use, where it sees all of its node; and who was killed."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
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


def share(processes: int) -> int:
    """Cores for each of so many processes of this container; at least 1."""
    return max(1, available() // processes)


def out_of_memory_kills(events: Path = MEMORY_EVENTS) -> int:
    """How many processes of this container the kernel has killed for its memory limit; 0 where that cannot be read."""
    try:
        counts = dict(line.split(maxsplit=1) for line in events.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def limit_threads() -> int:
    """Make numeric libraries that are imported later use the available CPUs; an explicit setting wins.

    Threads that wait must sleep: when they spin, a step takes 25 times as long on cores that others use too.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return int(os.environ.setdefault(THREADS_ENV, str(available())))
