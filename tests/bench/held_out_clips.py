"""How many clips have to be held out for their lowest loss to be at the checkpoint where that of other clips is lowest.

`python -m tests.bench.held_out_clips [SEEDS] [FIRST]`: nano is over-trained as in `best_checkpoint`, with 64 clips that the run never
sees. From each run some of them are drawn as if they had been held out, and 32 others as the truth, 200 times: the
evaluations are those of a run (four noise levels a clip), and nothing but chance in the choice of clips is left.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.trainer.overtraining import overtrained

FRESH, TRUTH, DRAWS = 64, 32, 200
HELD_OUT = 24
COUNTS = (4, 8, 16, 24, 32)


def main(count: int = 10, first: int = 1) -> None:
    """One line a number of clips."""
    torch.set_num_threads(1)
    runs: list[NDArray[np.float64]] = []
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(prefix="mochi-held-") as folder:
            by_clip = overtrained(Path(folder), seed, HELD_OUT, FRESH).by_clip
        runs.append(np.array([by_clip[step] for step in sorted(by_clip)]))
    for clips in COUNTS:
        off, above = drawn(runs, clips)
        sys.stdout.write(
            f"{clips} clips: {1 - off:.1%} within one checkpoint, {above:.3f} above the lowest loss\n"
        )


def drawn(runs: list[NDArray[np.float64]], clips: int) -> tuple[float, float]:
    """How often what `clips` clips call the best is further than one checkpoint from what others do, and the mean of what
    that costs in the others' loss; `runs` are losses (checkpoints, clips)."""
    chance = np.random.default_rng(0)
    off, above = [], []
    for losses in runs:
        for _ in range(DRAWS):
            order = chance.permutation(losses.shape[1])
            truth = losses[:, order[-TRUTH:]].mean(1)
            best = int(losses[:, order[:clips]].mean(1).argmin())
            off.append(abs(best - int(truth.argmin())) > 1)
            above.append(truth[best] - truth.min())
    return float(np.mean(off)), float(np.mean(above))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
