"""Kill trainings at random moments on a real S3 server, compare each with an undisturbed one, and tell what it cost.

`python -m tests.bench.killed_training [KILLS] [SEED] [RANKS]`: with two ranks a full fine-tuning, of which one or both are killed.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.trainer.conftest import serving
from tests.trainer.jobs_training.killed import (
    GANG,
    GANG_SPEED,
    STEPS,
    Kill,
    killed,
    left_alone,
    preload,
    result,
    run_of,
    slow_link,
)
from tests.trainer.training_runs import write_dataset

KILLS = 30
A_RUN = 6
"""Kills of one run at most."""


def main() -> None:
    """Print one line a run, and the sum."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    draws = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    ranks = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    options, speed = (STEPS, 50_000) if ranks == 1 else (GANG | {"replicas": ranks}, GANG_SPEED)
    preload()
    with tempfile.TemporaryDirectory() as name, serving(_made(Path(name) / "s3")) as server:
        root = Path(name)
        write_dataset(root)
        kills: list[Kill] = []
        with slow_link(server, bytes_per_second=speed) as spec:
            seconds = left_alone(run_of(root, "alone", spec, **options))
            alone, runs = result(server.folder / "alone"), 0
            sys.stdout.write(f"left alone: {seconds:.1f} s\n")
            while len(kills) < wanted:
                runs += 1
                folder = server.folder / f"run-{runs}"
                run, count = run_of(root, folder.name, spec, **options), min(A_RUN, wanted - len(kills))
                started = time.monotonic()
                found = killed(run, folder, draws, count, longest=seconds)
                if not found:  # it was left alone too, on a machine that is less busy by now
                    seconds = min(seconds, time.monotonic() - started)
                same = result(folder) == alone
                moments = ", ".join(map(_told, found))
                sys.stdout.write(
                    f"run {runs}: equal: {same}; killed {len(found)} times, and what was done again: {moments}\n"
                )
                assert same
                kills += found
        lost = [kill.again for kill in kills]
        moments = ", ".join(f"{count} {moment}" for moment, count in Counter(k.moment for k in kills).items())
        sys.stdout.write(
            f"{len(kills)} kills ({moments}): all weights and losses equal, each attempt went on from the newest complete "
            f"checkpoint; steps done again: {sum(lost)} in all, {max(lost)} at most, checkpoints every "
            f"{options['checkpoint']['everySteps']}{_peers(kills)}\n"
        )


def _told(kill: Kill) -> str:
    whom = f" of rank {' and '.join(map(str, kill.ranks))}" if kill.peers or len(kill.ranks) > 1 else ""
    return f"{kill.moment}{whom} ({kill.again} steps{', its peer ended ' * bool(kill.peers)}{kill.peers})"


def _peers(kills: list[Kill]) -> str:
    ends = Counter(kill.peers for kill in kills if kill.peers)
    return "".join(f"; {count} times the peers ended {how}" for how, count in ends.items())


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
