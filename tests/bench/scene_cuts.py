"""How well changes of shot are found: `python tests/bench/scene_cuts.py`.

Films of 14 shots with known changes (hard cuts, dissolves, fades) from real and drawn shots with pans, zooms, whips,
flashes, lamps, grain and dropped frames (tests/trainer/footage/material.py). Thresholds were chosen on the tuning half;
the held-out half shares no shot and no seed with it. The last line is the film that people cut.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np

from mochi_trainer.footage.cuts import cuts
from tests.trainer.footage.material import (
    BIKES_CUTS,
    HELD_OUT,
    SMALL,
    TUNING,
    Change,
    Score,
    decoded,
    film,
    scored,
)


def _found(frames: np.ndarray) -> Sequence[tuple[int, int]]:
    return [(cut.begin, cut.end) for cut in cuts(frames)]


def _line(name: str, score: Score, frames: int, seconds: float) -> str:
    counts = f"{score.hits + score.misses} | {score.hits} | {score.misses} | {score.false}"
    figures = f"{score.precision:.3f} | {score.recall:.3f} | {score.f1:.3f}"
    return f"| {name} | {counts} | {figures} | {frames / seconds:.0f} |\n"


def main() -> None:
    """Print one line for each half and one for the real film."""
    head = "material | changes | found | missed | invented | precision | recall | F1 | frames a CPU second"
    sys.stdout.write(f"| {head} |\n|{'---|' * 9}\n")
    for name, half in (("tuning", TUNING), ("held out", HELD_OUT)):
        score, frames, seconds = Score(), 0, 0.0
        for seed in half.seeds:
            made = film(half, seed)
            began = time.process_time()
            found = _found(made.frames)
            seconds += time.process_time() - began
            frames += len(made.frames)
            score += scored(found, made.changes)
        sys.stdout.write(_line(name, score, frames, seconds))
        sys.stdout.flush()
    real = decoded("bikes.mp4", *SMALL)
    began = time.process_time()
    score = scored(_found(real), [Change(at, at) for at in BIKES_CUTS])
    sys.stdout.write(_line("bikes.mp4", score, len(real), time.process_time() - began))


if __name__ == "__main__":
    main()
