"""Filters of libavfilter with one input and one output."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from av.filter import Graph


def graph(frame: Any, name: str, **options: str) -> Graph:
    """A graph of one filter for frames like `frame`, told their colours so that they pass unchanged."""
    made = Graph()
    source = made.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(Fraction(frame.time_base)),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    middle, sink = made.add(name, **options), made.add("buffersink")
    source.link_to(middle)
    middle.link_to(sink)
    made.configure()
    return made
