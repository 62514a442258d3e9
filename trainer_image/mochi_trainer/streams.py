"""Standard output and error as they are given: closed, in an encoding without our signs, or a pipe whose reader has gone."""

from __future__ import annotations

import io
import os
import select
import sys

READER_GONE = 141
"""What a shell says of a program that SIGPIPE has ended, as one that writes to `head` is."""


def made_ready() -> None:
    """Let all that is said have a place to go, and be sayable there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # for the life of the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more; from then on nothing is written to it."""
    try:
        poll, number = select.poll(), sys.stdout.fileno()
        poll.register(number, 0)
        gone = any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # of what is no file
        return False
    if gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return gone
