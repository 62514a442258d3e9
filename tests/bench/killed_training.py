"""Kill trainings at random moments on a real S3 server, compare each with an undisturbed one, and tell what it cost.

`python -m tests.bench.killed_training [KILLS] [SEED]`
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.trainer.conftest import serving
from tests.trainer.jobs_training.killed import Kill, killed, left_alone, preload, result, run_of, slow_link
from tests.trainer.training_runs import write_dataset

KILLS = 30
A_RUN = 6
"""Kills of one run at most."""


def main() -> None:
    """Print one line a run, and the sum."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    draws = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    preload()
    with tempfile.TemporaryDirectory() as name, serving(_made(Path(name) / "s3")) as server:
        root = Path(name)
        write_dataset(root)
        kills: list[Kill] = []
        with slow_link(server) as spec:
            seconds = left_alone(run_of(root, "alone", spec))
            alone, runs = result(server.folder / "alone"), 0
            sys.stdout.write(f"left alone: {seconds:.1f} s\n")
            while len(kills) < wanted:
                runs += 1
                folder = server.folder / f"run-{runs}"
                run, count = run_of(root, folder.name, spec), min(A_RUN, wanted - len(kills))
                found = killed(run, folder, draws, count, longest=seconds)
                same = result(folder) == alone
                moments = ", ".join(f"{kill.moment} ({kill.again} steps)" for kill in found)
                sys.stdout.write(
                    f"run {runs}: equal: {same}; killed {len(found)} times, and what was done again: {moments}\n"
                )
                assert same
                kills += found
        lost = [kill.again for kill in kills]
        moments = ", ".join(f"{count} {moment}" for moment, count in Counter(k.moment for k in kills).items())
        sys.stdout.write(
            f"{len(kills)} kills ({moments}): all weights and losses equal, each attempt went on from the newest complete "
            f"checkpoint; steps done again: {sum(lost)} in all, {max(lost)} at most, checkpoints every 5\n"
        )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
