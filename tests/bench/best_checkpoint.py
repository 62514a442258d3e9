"""Over-train nano with several seeds, and compare the checkpoint that each run calls the best with the one that is.

`python -m tests.bench.best_checkpoint [SEEDS]`: 640 steps on 4 clips, 4 held out, a checkpoint every 80 steps; the truth is
the loss of 12 clips of the same kind that the run never sees. The exit code says whether all are within one checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.trainer.overtraining import EVERY, overtrained


def main() -> int:
    """One line a seed."""
    torch.set_num_threads(1)
    far = 0
    for seed in range(1, 1 + (int(sys.argv[1]) if len(sys.argv) > 1 else 10)):
        with tempfile.TemporaryDirectory(prefix="mochi-best-") as folder:
            found = overtrained(Path(folder), seed)
        far += abs(found.best - found.truth) > EVERY
        course = " ".join(f"{loss:.3f}" for loss in found.losses.values())
        sys.stdout.write(
            f"seed {seed}: best {found.best}, truth {found.truth}, overfits from {found.overfits_from}; {course}\n"
        )
        sys.stdout.flush()
    sys.stdout.write(f"more than one checkpoint off: {far}\n")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
