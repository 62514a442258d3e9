"""Take the store away from a training for minutes, and compare with a training that was left alone.

`python -m tests.bench.store_away [SECONDS]`: ten minutes by default, and some more for the steps before and after. A step is
made to take a second, a checkpoint is due after every twenty.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mochi_trainer.jobs import train
from mochi_trainer.movement import PROCESS
from tests.trainer.conftest import serving
from tests.trainer.distributed import free_port
from tests.trainer.fault_proxy import Answer, Fault, Lost, Request, Shaped, fault_proxy
from tests.trainer.jobs_training.killed import complete, result, run_of
from tests.trainer.training_runs import write_dataset

SECONDS = 600
EVERY = 20


class Away:
    """From the first checkpoint on, for so many seconds, what is asked for is refused, cut off, or never answered."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.refused = 0
        self._since: float | None = None
        self._draws = random.Random(1)

    @property
    def gone(self) -> bool:
        """Whether it is away now."""
        return self._since is not None and time.monotonic() - self._since < self.seconds

    def __call__(self, request: Request) -> Fault | None:
        if self.gone:
            self.refused += 1
            kinds: list[Fault] = [Lost(done=False), Answer(status=503, code="SlowDown"), Lost(done=True)]
            return self._draws.choice([*kinds, Shaped(seconds=70)] if request.method == "PUT" else kinds)
        if self._since is None and request.method == "DELETE":
            self._since = time.monotonic()  # the second checkpoint is complete
        return None


def main() -> None:
    """Print what came of both, step by step where the training tells something."""
    logging.basicConfig(stream=sys.stdout, format="%(relativeCreated)d ms %(message).160s")
    logging.getLogger("mochi_trainer.train").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    options: dict[str, Any] = {
        "steps": round(seconds) + 4 * EVERY,
        "checkpoint": {"everySteps": EVERY, "keepLast": 1},
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "s3").mkdir()
        with serving(root / "s3") as server:
            os.environ.update(MOCHI_POD_IP="127.0.0.1", MOCHI_METRICS_PORT=str(free_port()))
            write_dataset(root)
            train.execute(run_of(root, "alone", server.spec, **options))
            away, ends = Away(seconds), []
            with fault_proxy(server.spec, away) as proxy, PROCESS.heard(lambda: _pace(away, ends)):
                train.execute(run_of(root, "away", proxy.spec, **options))
            same = result(server.folder / "away") == result(server.folder / "alone")
            sys.stdout.write(
                f"{options['steps']} steps, the store away for {seconds:.0f} s from step {ends[0]} to {ends[-1]}, {away.refused} "
                f"requests refused: weights and losses equal: {same}; complete in the end: {complete(server.folder / 'away')}\n"
            )
            assert same


def _pace(away: Away, ends: list[int]) -> None:
    """A second a step, while the store is away and shortly before; `ends` has the steps at which it was."""
    done = PROCESS.heartbeat().done
    if away.gone and (not ends or ends[-1] != done):
        ends.append(done)
        time.sleep(1)


if __name__ == "__main__":
    main()
