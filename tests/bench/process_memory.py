"""The memory of a process and all that it starts, while it runs."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

SECONDS = 0.1
"""Between two looks: what is shorter may be missed."""


def peak_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process: the most bytes that it and its descendants held at once, by their PSS."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_pss(pid) for pid in _tree(process.pid)))
        time.sleep(SECONDS)
    return peak


def _tree(pid: int) -> list[int]:
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    found += _tree(int(child))
    return found


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
