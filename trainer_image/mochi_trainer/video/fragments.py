"""What the fragments (`moof`) of a file claim of their samples (ISO/IEC 14496-12, 8.8): how many, and how far before their decoding
they are shown.

libav puts the times of all samples later by the most that one of those which it has read is shown before its decoding, but begins a
track that is not in fragments earlier by as much. So in fragments the difference has to be taken off again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mochi_trainer.video.boxes import children, number

DATA_OFFSET, FIRST_FLAGS, DURATION, SIZE, FLAGS, OFFSET = 0x1, 0x4, 0x100, 0x200, 0x400, 0x800
"""Bits of a `trun` that say which fields it has."""


def samples_of(moof: memoryview) -> int:
    """How many samples the content of a `moof` claims."""
    return sum(number(run, 4) for _, run in _runs(moof))


def shifts_of(moof: memoryview) -> Iterator[tuple[int, int]]:
    """(number of a track, ticks by which a run of its samples has one that is shown before it is decoded; 0 for none)."""
    for track, run in _runs(moof):
        yield track, shift(_offsets(run))


def shift(offsets: np.ndarray) -> int:
    """The most by which one of `offsets` (signed, of 32 bits) is negative."""
    return max(0, -int(offsets.min())) if len(offsets) else 0


def _runs(moof: memoryview) -> Iterator[tuple[int, memoryview]]:
    for kind, traf in children(moof):
        if kind == b"traf":
            boxes = list(children(traf))
            track = next((number(content, 4) for name, content in boxes if name == b"tfhd"), 0)
            yield from ((track, content) for name, content in boxes if name == b"trun")


def _offsets(run: memoryview) -> np.ndarray:
    flags = number(run, 0) & 0xFFFFFF
    if not flags & OFFSET:
        return np.empty(0, np.int32)
    start = 8 + sum(4 for bit in (DATA_OFFSET, FIRST_FLAGS) if flags & bit)
    before = sum(1 for bit in (DURATION, SIZE, FLAGS) if flags & bit)
    count = min(number(run, 4), max(0, len(run) - start) // (4 * (before + 1)))
    rows = np.frombuffer(run[start : start + 4 * (before + 1) * count], ">i4")
    return rows.reshape(count, before + 1)[:, before]
