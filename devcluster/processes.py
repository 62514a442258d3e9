"""Processes by identity: a pid counts only together with its start time, so that a recycled one is never touched."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of this boot."""

    pid: int
    start: int
    """Start time in clock ticks since boot, field 22 of /proc/<pid>/stat."""

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        found = _stat(self.pid)
        return found is not None and found.start == self.start and found.state not in {"Z", "X"}


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    start: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name in parentheses may hold anything
    return _Stat(state=fields[0], parent=int(fields[1]), start=int(fields[19]))


def identity(pid: int) -> Identity | None:
    """The process that has `pid` now; None when there is none."""
    found = _stat(pid)
    return Identity(pid, found.start) if found else None


def descendants(pid: int) -> list[Identity]:
    """Every process below `pid`, parents first."""
    children: dict[int, list[Identity]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _stat(int(entry.name))) is not None:
            children.setdefault(found.parent, []).append(Identity(int(entry.name), found.start))
    result: list[Identity] = []
    level = children.get(pid, [])
    while level:
        result += level
        level = [child for item in level for child in children.get(item.pid, [])]
    return result


def send(processes: Iterable[Identity], signum: signal.Signals) -> None:
    """Signal those that are alive and ours."""
    for process in processes:
        if process.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signum)


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether `true` became true within the limit."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def end(processes: Iterable[Identity], *, grace: float) -> bool:
    """SIGTERM, then SIGKILL after `grace` seconds; whether all are gone."""
    mine = list(processes)
    gone: Callable[[], bool] = lambda: not any(process.alive() for process in mine)  # noqa: E731
    if grace > 0:
        send(mine, signal.SIGTERM)
        if wait_until(gone, grace):
            return True
    send(mine, signal.SIGKILL)
    return wait_until(gone, 10.0)
