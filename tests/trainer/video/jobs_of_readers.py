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


def parent() -> int:
    return os.getppid()


def command() -> list[str]:
    return Path("/proc/self/cmdline").read_bytes().decode().split("\0")


def descriptors() -> list[str]:
    found = []
    for file in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{file.name} {file.readlink()}")
        except FileNotFoundError:  # of the listing itself
            continue
    return found


def own_memory() -> int:
    """Bytes that no other process has, after the functions of readers were imported."""
    import mochi_trainer.footage.looking  # noqa: F401

    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty"))


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
