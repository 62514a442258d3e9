"""Interlaced frames made progressive."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from av.filter import Graph

from mochi_trainer.video.filters import graph
from mochi_trainer.video.timeline import Timed


def progressive(timed: Iterator[Timed], found: list[float]) -> Iterator[Timed]:
    """As given until a frame is marked as interlaced; from there on through bwdif, which alters marked frames only.

    The time of the first one is added to `found`. One frame becomes one frame, with the same time.
    """
    for first in timed:
        if first.frame.interlaced_frame:
            found.append(float(first.seconds))
            yield from _filtered(first, timed)
            return
        yield first


def _filtered(first: Timed, rest: Iterator[Timed]) -> Iterator[Timed]:
    deinterlace = graph(first.frame, "bwdif", mode="send_frame", parity="auto", deint="interlaced")
    durations: dict[Fraction, Fraction] = {}
    for timed in _chain(first, rest):
        durations[timed.seconds] = timed.duration
        deinterlace.vpush(timed.frame)
        yield from _pulled(deinterlace, durations)
    deinterlace.vpush(None)
    yield from _pulled(deinterlace, durations)


def _chain(first: Timed, rest: Iterator[Timed]) -> Iterator[Timed]:
    yield first
    yield from rest


def _pulled(deinterlace: Graph, durations: dict[Fraction, Fraction]) -> Iterator[Timed]:
    while True:
        try:
            frame: Any = deinterlace.vpull()
        except (BlockingIOError, EOFError):
            return
        seconds = frame.pts * Fraction(frame.time_base)
        yield Timed(seconds, durations.pop(seconds, Fraction(0)), frame)
