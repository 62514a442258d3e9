"""Interlaced frames made progressive."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from av.filter import Graph

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
    graph = _graph(first.frame)
    durations: dict[Fraction, Fraction] = {}
    for timed in _chain(first, rest):
        durations[timed.seconds] = timed.duration
        graph.vpush(timed.frame)
        yield from _pulled(graph, durations)
    graph.vpush(None)
    yield from _pulled(graph, durations)


def _chain(first: Timed, rest: Iterator[Timed]) -> Iterator[Timed]:
    yield first
    yield from rest


def _pulled(graph: Graph, durations: dict[Fraction, Fraction]) -> Iterator[Timed]:
    while True:
        try:
            frame: Any = graph.vpull()
        except (BlockingIOError, EOFError):
            return
        seconds = frame.pts * Fraction(frame.time_base)
        yield Timed(seconds, durations.pop(seconds, Fraction(0)), frame)


def _graph(frame: Any) -> Graph:
    graph = Graph()
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(Fraction(frame.time_base)),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    deinterlace = graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
    sink = graph.add("buffersink")
    source.link_to(deinterlace)
    deinterlace.link_to(sink)
    graph.configure()
    return graph
