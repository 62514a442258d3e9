"""Interlaced frames made progressive."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, groupby
from typing import Any

from av.filter import Graph

from mochi_trainer.video.descriptions import Fields
from mochi_trainer.video.filters import graph
from mochi_trainer.video.timeline import Held, Timed

FRAME_BY_FRAME = {
    "h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3", "vp8", "vp9", "av1",
}  # fmt: skip
"""Codecs that say of each frame whether it is interlaced, or have no interlaced ones: the container is not asked."""


def told_fields(codec: str, fields: Fields) -> Fields:
    """What the container says of all frames, for a codec that leaves it the word."""
    return Fields.UNTOLD if codec in FRAME_BY_FRAME else fields


def progressive(timed: Iterator[Timed], found: list[float], told: Fields = Fields.UNTOLD) -> Iterator[Timed]:
    """As given until a frame is interlaced; from there on through bwdif, which alters interlaced frames only.

    Where the container has `told`, it holds for all frames, whatever marks they have.
    The time of the first one is added to `found`. One frame becomes one frame, with the same time.
    """
    if told is Fields.NONE:
        yield from timed
        return
    for first in timed:
        if told or first.held.frame.interlaced_frame:
            found.append(float(first.seconds))
            yield from _filtered(first, timed, told)
            return
        yield first


def _filtered(first: Timed, rest: Iterator[Timed], told: Fields) -> Iterator[Timed]:
    """Frames of another size or form than those before begin anew: no filter takes both."""
    for _, alike in groupby(chain((first,), rest), lambda timed: _form(timed.held.frame)):
        yield from _of_one_form(alike, told)


def _form(frame: Any) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _of_one_form(frames: Iterator[Timed], told: Fields) -> Iterator[Timed]:
    parity, which = (told.value, "all") if told else ("auto", "interlaced")
    deinterlace: Graph | None = None
    durations: dict[Fraction, Fraction] = {}
    for timed in frames:
        if deinterlace is None:
            deinterlace = graph(timed.held.frame, "bwdif", mode="send_frame", parity=parity, deint=which)
        durations[timed.seconds] = timed.duration
        deinterlace.vpush(timed.held.frame)
        yield from _pulled(deinterlace, durations)
    if deinterlace is not None:
        deinterlace.vpush(None)
        yield from _pulled(deinterlace, durations)


def _pulled(deinterlace: Graph, durations: dict[Fraction, Fraction]) -> Iterator[Timed]:
    while True:
        try:
            held = Held(deinterlace.vpull())
        except (BlockingIOError, EOFError):
            return
        seconds = held.frame.pts * Fraction(held.frame.time_base)
        yield Timed(seconds, durations.pop(seconds, Fraction(0)), held)
