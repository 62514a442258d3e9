"""Kill the stages of preprocessing at 20 random moments, compare with undisturbed ones, and count what was done twice.

`python -m tests.bench.killed_stages [SEED]`
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from tests.trainer.jobs_preprocessing.killed import contents, made, preload, stages, write_clips

KILLS = 20
CLIPS = 24


def main() -> None:
    """Print one line a round, and the sum."""
    draws = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    preload()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_clips(root / "undisturbed" / "source", CLIPS)
        keys, _ = stages(root / "undisturbed")
        wanted, once = contents(root / "undisturbed", keys), sum(made(root / "undisturbed").values())
        killed = extra = rounds = 0
        while killed < KILLS:
            rounds += 1
            write_clips(root / str(rounds) / "source", CLIPS)
            keys, kills = stages(root / str(rounds), draws)
            same = contents(root / str(rounds), keys) == wanted
            again = sum(made(root / str(rounds)).values()) - once
            sys.stdout.write(
                f"round {rounds}: {kills} kills at work, equal: {same}, made again: {again} of {once}" + "\n"
            )
            assert same
            killed, extra = killed + kills, extra + again
        sys.stdout.write(
            f"{killed} kills: every byte equal; {extra} of {once * rounds} units were made again" + "\n"
        )


if __name__ == "__main__":
    main()
