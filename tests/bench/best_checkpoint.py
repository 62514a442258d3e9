"""Over-train nano with several seeds, and compare the checkpoint that each run calls the best with the one that is.

`python -m tests.bench.best_checkpoint [SEEDS] [FIRST] [HELD]`: 640 steps on 4 clips, HELD (4) held out, a checkpoint every 80 steps; the truth
is the loss of 12 clips of the same kind that the run never sees, at four noise levels each. Beside it stands
the step with the lowest loss of the held out clips themselves, at 32 levels with other noises. Twelve clips are not all clips
either: so it is told too by how much the loss of the checkpoint that is called the best is above the lowest, with the standard
error of that over the clips; `held_out_clips` measures how often two choices of clips agree.
The exit code says whether all are within one checkpoint of the truth.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.trainer.overtraining import EVERY, HELD_OUT, overtrained


def main(count: int = 10, first: int = 1, held: int = HELD_OUT) -> int:
    """One line a seed."""
    torch.set_num_threads(1)
    far = clearly = far_of_held_out = 0
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(prefix="mochi-best-") as folder:
            found = overtrained(Path(folder), seed, held)
        off = abs(found.best - found.truth) > EVERY
        above, error = found.above(found.best)
        far += off
        far_of_held_out += abs(found.best - found.truth_of_held_out) > EVERY
        clearly += off and above > 2 * error
        course = " ".join(f"{loss:.3f}" for loss in found.losses.values())
        sys.stdout.write(
            f"seed {seed}: best {found.best}, truth {found.truth}, of the held out clips {found.truth_of_held_out}, loss {above:.3f} ± {error:.3f} above it, "
            f"overfits from {found.overfits_from}; {course}\n"
        )
        sys.stdout.flush()
    sys.stdout.write(
        f"more than one checkpoint off: {far}; of these clearly worse: {clearly}; from the held out "
        f"clips' own lowest: {far_of_held_out}\n"
    )
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
