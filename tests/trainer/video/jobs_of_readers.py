"""What workers are told to do in the tests."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError


def double(number: int) -> int:
    return 2 * number


def pid() -> int:
    return os.getpid()


def modules() -> list[str]:
    return sorted(sys.modules)


def environment() -> dict[str, str]:
    return dict(os.environ)


def fail() -> None:
    raise ClipError("no good", ClipReason.TOO_SHORT)


def full_disk() -> None:
    raise OSError(28, "No space left on device", "somewhere")


def not_to_be_pickled() -> None:
    class OwnError(Exception):
        pass

    raise OwnError("of this function only")


def crash(number: int) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def hang(note: Path | None = None) -> None:
    if note is not None:
        note.write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def spin() -> None:
    while True:
        pass


def take(size: int) -> int:
    return int(np.ones(size, np.uint8).sum())


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
