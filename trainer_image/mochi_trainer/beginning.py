"""How a command that reads clips begins: as a process without secrets, of which readers are forked before it has them.

Readers that share what they import with each other and with the stage take less memory. But what decodes strange files
must not hold credentials, and what a process has once had in its memory, its forks have too. So the process begins anew,
with nothing but what readers may know of the environment; imports what they need; forks them; and only then takes the
environment back, from a file in memory that they do not have.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Sequence

from mochi_trainer.reader_environment import reader_environment

MODULE = "mochi_trainer"
IMPORTED = (
    "mochi_trainer.footage.looking", "mochi_trainer.footage.duplicates",
    "av.subtitles.stream", "numpy.ma",  # of any file; of medians
)  # fmt: skip
"""By readers, sooner or later."""

READING = ("trim", "preprocess")
"""Commands whose readers are worth it."""

MOST = 16
"""Readers that are forked, needed or not; each takes 3 MB until it works. Those beyond begin anew."""


def begin_anew() -> None:
    """Become a process without secrets that goes on with the same command, where that command reads clips.

    Where that cannot be done, readers begin as processes of their own.
    """
    flags = _flags(sys.orig_argv)
    if flags is None or len(sys.argv) < 2 or sys.argv[1] not in READING or not hasattr(os, "memfd_create"):
        return
    known = {name: value for name, value in reader_environment().items() if name != "PYTHONPATH"}
    python = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    try:
        _open_streams()
        told = _put_aside()
        arguments = [sys.orig_argv[0], *flags, "-m", f"{MODULE}.beginning", str(told), *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**known, **python})  # noqa: S606  # there is no shell
    except OSError:
        return


def _flags(command: Sequence[str]) -> Sequence[str] | None:
    """Options of a Python that runs this module; None of one that runs something else."""
    try:
        place = command.index("-m")
    except ValueError:
        return None
    return command[1:place] if list(command[place + 1 : place + 2]) == [MODULE] else None


def _open_streams() -> None:
    """Whoever started this process may have closed them; no other file is to take their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _put_aside() -> int:
    """A file in memory with the environment, which the next program keeps."""
    told = os.memfd_create("environment", 0)
    with open(told, "wb", closefd=False) as file:
        file.write(b"\0".join(name + b"=" + value for name, value in os.environb.items()))
    os.lseek(told, 0, os.SEEK_SET)
    return told


def _taken_back(told: int) -> dict[bytes, bytes]:
    with open(told, "rb") as file:
        return dict(line.split(b"=", 1) for line in file.read().split(b"\0") if line)


def _import_what_readers_need() -> None:
    """Also what would come with the first call only, and then for each of them apart."""
    for module in IMPORTED:
        importlib.import_module(module)
    from PIL import Image

    Image.preinit()


def _begin(told: int, arguments: Sequence[str]) -> None:
    """Fork the readers, take the environment back, and do what was asked for."""
    _import_what_readers_need()
    from mochi_trainer.cpus import available
    from mochi_trainer.video.forking import NURSERY

    NURSERY.fill(min(available(), MOST), without=told)
    environment = _taken_back(told)
    os.environb.clear()
    os.environb.update(environment)
    sys.argv[1:] = arguments
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _begin(int(sys.argv[1]), sys.argv[2:])
