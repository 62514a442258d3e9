"""Filters of libavfilter with one input and one output."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from av.filter import Graph


def graph(frame: Any, name: str, **options: str) -> Graph:
    """A graph of one filter for frames like `frame`, told their colours so that they pass unchanged."""
    return chain(frame, (name, options))


def chain(frame: Any, *filters: tuple[str, Mapping[str, str]]) -> Graph:
    """As `graph`, of several filters, one after the other: names and options.

    In one thread, as the decoder: several clips at once use the cores better, and each thread has memory of its own.
    """
    made = Graph()
    made.threads = 1
    last = made.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(Fraction(frame.time_base)),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    for name, options in (*filters, ("buffersink", {})):
        added = made.add(name, **options)
        last.link_to(added)
        last = added
    made.configure()
    return made
