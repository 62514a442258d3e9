"""All tests, in two processes beside each other: those of a cluster wait much of their time, those of the trainer compute.

`python -m tests.at_once` is `make test`. What the second process says follows when the first has ended; the exit code is that
of the first one that failed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from devcluster import signals

TRAINER = ("tests/trainer", "tests/api")
"""What the second process takes; the first takes all others."""

CLIPS = ("tests/trainer/video", "tests/trainer/footage")
"""And these, so that both take about as long."""

PYTEST = (sys.executable, "-m", "pytest")
STOP_SECONDS = 120.0
"""For ending when a person has interrupted both."""


def main() -> int:
    """Run both; the exit code."""
    signals.handle(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.default_int_handler))
    with tempfile.TemporaryFile() as said:
        halves = [
            subprocess.Popen([*PYTEST, *_others(), *CLIPS]),
            subprocess.Popen(
                [*PYTEST, *TRAINER, *(f"--ignore={part}" for part in CLIPS)],
                stdout=said,
                stderr=subprocess.STDOUT,
            ),
        ]
        codes = _ended(halves)
        _pass_on(said)
    return next((code for code in codes if code), 0)


def _others() -> list[str]:
    """What lies in `tests` beside the trainer's."""
    found = (path for path in Path("tests").iterdir() if path.is_dir() or path.match("test_*.py"))
    return sorted(str(path) for path in found if path.name[0] not in "_." and str(path) not in TRAINER)


def _ended(halves: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Their exit codes; an interrupt ends both, which clean up."""
    try:
        return [half.wait() for half in halves]
    except KeyboardInterrupt:
        for half in halves:
            half.send_signal(signal.SIGINT)
        try:
            return [half.wait(STOP_SECONDS) for half in halves]
        finally:
            for half in halves:
                half.kill()


def _pass_on(said: BinaryIO) -> None:
    said.seek(0)
    sys.stdout.flush()
    sys.stdout.buffer.write(said.read())
    sys.stdout.flush()


if __name__ == "__main__":
    if missing := [part for part in (*TRAINER, *CLIPS) if not Path(part).is_dir()]:
        sys.exit(f"no folder {missing[0]}: start it where the project lies")
    sys.exit(main())
