"""CPU seconds until a pod's command has imported what it needs: `python tests/bench/pod_start.py`.

CPU time, not wall time, so that neighbours on the machine count less; files are in the page cache after the first run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

REPEATS = 3
T5 = "from transformers import T5EncoderModel"
LATER = {"captions": T5, "train": "from peft import LoraConfig, inject_adapter_in_model", "sample": T5}
"""What a command imports only when it loads its model."""

STATEMENTS = {
    "nothing (Python itself)": "pass",
    **{
        stage: f"import mochi_trainer.__main__, mochi_trainer.jobs.{stage}\n{LATER.get(stage, '')}"
        for stage in ("trim", "captions", "videos", "train", "sample")
    },
}


def _cpu_seconds(statements: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, "-c", statements], check=True, timeout=120)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print one line for each command."""
    sys.stdout.write(f"CPU seconds, median of {REPEATS} processes after one\n")
    for name, statements in STATEMENTS.items():
        _cpu_seconds(statements)
        seconds = [_cpu_seconds(statements) for _ in range(REPEATS)]
        middle = statistics.median(seconds)
        sys.stdout.write(f"{name:<24} {middle:6.2f}   ({min(seconds):.2f} to {max(seconds):.2f})\n")
    sys.stdout.write("again: python tests/bench/pod_start.py\n")


if __name__ == "__main__":
    main()
