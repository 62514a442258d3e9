"""How much memory this process may still take: a container sees all memory of its node, its limit is in the cgroup."""

from __future__ import annotations

from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def available(cgroup: Path = CGROUP_V2, meminfo: Path = MEMINFO) -> int | None:
    """Bytes that the node has left, and no more than the cgroup's limit leaves; None when neither can be read.

    Files that the kernel would let go of at once do not count as used.
    """
    found = [free for free in (_of_node(meminfo), _of_cgroup(cgroup)) if free is not None]
    return min(found, default=None)


def _of_node(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_cgroup(cgroup: Path) -> int | None:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    files = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(0, int(limit) - used + files)
