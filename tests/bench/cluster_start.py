"""How long a warm start of the dev cluster takes, part by part, and its end: `python tests/bench/cluster_start.py`.

The limit promised is 30 s on two idle cores; the reference beside it is the start of an empty Python process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from devcluster import cluster

RUNS = 3


def _start_and_end() -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="mochi-bench-") as folder:
        config = cluster.Config(name="bench", dir=Path(folder) / "cluster")
        began = time.monotonic()
        cluster.up(config)
        ready = time.monotonic()
        cluster.down(config.folder)
        return ready - began, time.monotonic() - ready


def _reference() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.monotonic() - began


def main() -> None:
    """Print medians over `RUNS` starts."""
    measured = [_start_and_end() for _ in range(RUNS)]
    python = statistics.median(_reference() for _ in range(5))
    for what, index in (("up", 0), ("down", 1)):
        seconds = [row[index] for row in measured]
        middle = statistics.median(seconds)
        sys.stdout.write(
            f"{what:<5} {middle:6.1f} s (of {RUNS}: {min(seconds):.1f} to {max(seconds):.1f}), "
            f"{middle / python:.0f} x an empty Python process\n"
        )


if __name__ == "__main__":
    main()
