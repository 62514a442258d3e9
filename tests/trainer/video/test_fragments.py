"""Files in fragments: pictures at the times that are written, and what is missing is never called too short."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.video import Cut, Limits, read_clip, shown_frames
from mochi_trainer.video.selection import SLACK
from tests.trainer.video.clips import box
from tests.trainer.video.fragmented import Sample, Timing, coded, fragment, index

COUNT, SCALE, FILE_SCALE = 24, 600, 1000
STEPS = (12, 24, 60, 222)


def cut(count: int, *, fps: int = 25, least: int = 0, start: float = 0.0) -> Cut:
    return Cut(frames=count, least=least, fps=fps, width=48, height=32, start_seconds=start)


def numbers(path: Path, count: int, **how: float) -> list[int]:
    return [round(float(frame.mean()) / 8) for frame in read_clip(path, cut(count, **how)).frames]


def timings_of(samples: Sequence[Sample], gaps: Sequence[int], *, early: bool) -> list[Timing]:
    """Decoding at the times of the pictures in their order; `early`: what is shown before has a negative offset."""
    shown = [sum(gaps[:k]) for k in range(COUNT)]
    later = 0 if early else max(shown[k] - shown[sample.number] for k, sample in enumerate(samples))
    return [
        Timing(shown[k], gaps[k], shown[sample.number] - shown[k] + later) for k, sample in enumerate(samples)
    ]


def elst(duration: int, media: int) -> bytes:
    return box(b"edts", box(b"elst", struct.pack(">IIIiI", 0, 1, duration, media, 1 << 16)))


def literal(times: list[int], edit: tuple[int, int] | None, start: float, count: int) -> list[int]:
    """Numbers of the pictures on screen, from the definition; `times` has one more than there are pictures."""
    media = Fraction(edit[1] if edit else times[0], SCALE)
    shown = [(max(Fraction(a, SCALE), media) - media, Fraction(b, SCALE) - media) for a, b in pairwise(times)]
    end = min(shown[-1][1], Fraction(edit[0], FILE_SCALE) if edit and edit[0] else shown[-1][1])
    wanted = [Fraction(start) + Fraction(2 * k + 1, 50) - Fraction(SLACK) for k in range(count)]
    return [next(n for n, (a, b) in enumerate(shown) if a <= at < b) for at in wanted if at < end]


@pytest.mark.parametrize("edited", ["not", "to the end", "to a time"])
@pytest.mark.parametrize("in_index", [0, 9])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pictures_come_at_the_times_that_are_written(
    tmp_path: Path, seed: int, early: bool, in_index: int, edited: str
) -> None:
    rng = random.Random(f"{seed}{early}{in_index}{edited}")
    path = tmp_path / "a.mp4"
    samples, stsd = coded(path, COUNT, bf="3", g=rng.choice(["5", "250"]))
    timings = timings_of(samples, [rng.choice(STEPS) for _ in samples], early=early)
    shown = sorted(timing.decoded + timing.offset for timing in timings)
    last = max(range(COUNT), key=lambda k: samples[k].number)
    edit = {"not": None, "to the end": (0, shown[2]), "to a time": (1500, shown[3] + 5)}[edited]
    data = index(
        path, stsd, SCALE, samples[:in_index], timings[:in_index], edits=elst(*edit) if edit else b""
    )
    told = rng.random() < 0.5
    place = in_index
    while place < COUNT:
        end = place + rng.randrange(2, 9)
        data += fragment(samples[place:end], timings[place:end], place, told=told)
        place = end
    path.write_bytes(data)
    for start in (0.0, 0.3, 2.0):
        expected = literal([*shown, shown[-1] + timings[last].lasts], edit, start, 999)
        assert numbers(path, 999, start=start) == expected
        assert shown_frames(path, 25, start, Limits()) == len(expected)


def cut_behind_two(path: Path, more: int, *, mehd: bytes = b"", sidx: bool = False) -> Path:
    """A file of four fragments of 6 pictures, 40 ms each, of which two are there, and `more` bytes of the third."""
    samples, stsd = coded(path, COUNT, g="6")
    timings = timings_of(samples, [24] * COUNT, early=False)
    parts = [fragment(samples[k : k + 6], timings[k : k + 6], k // 6 + 1) for k in range(0, COUNT, 6)]
    data = index(path, stsd, SCALE, mehd=mehd)
    if sidx:
        rows = [struct.pack(">III", len(part), 144, 0x90000000) for part in parts]
        data += box(b"sidx", struct.pack(">IIIIIHH", 0, 1, SCALE, 0, 0, 0, len(parts)), *rows)
    path.write_bytes(data + parts[0] + parts[1] + parts[2][:more])
    return path


@pytest.mark.parametrize(
    "kind", ["in its size", "in its head", "by its index", "by its length", "by its length of 8 bytes"]
)
def test_a_file_that_ends_between_two_fragments_is_corrupt_where_more_is_needed(
    tmp_path: Path, kind: str
) -> None:
    claims = {
        "by its length": box(b"mehd", struct.pack(">II", 0, 2400)),
        "by its length of 8 bytes": box(b"mehd", struct.pack(">IQ", 1 << 24, 2400)),
    }
    more = {"in its size": 3, "in its head": 7}.get(kind, 0)
    path = cut_behind_two(tmp_path / "a.mp4", more, mehd=claims.get(kind, b""), sidx=kind == "by its index")
    assert numbers(path, 12) == list(range(12))
    with pytest.raises(ClipError, match="cut off") as caught:
        read_clip(path, cut(24, least=24))
    assert caught.value.reason is ClipReason.CORRUPT
    with pytest.raises(ClipError, match="cut off"):
        shown_frames(path, 25, 0, Limits())


def test_a_file_of_two_fragments_is_too_short_where_nothing_says_that_there_were_more(tmp_path: Path) -> None:
    path = cut_behind_two(tmp_path / "a.mp4", 0, mehd=box(b"mehd", struct.pack(">II", 0, 480)))
    with pytest.raises(ClipError) as caught:
        read_clip(path, cut(24, least=24))
    assert caught.value.reason is ClipReason.TOO_SHORT
    assert shown_frames(path, 25, 0, Limits()) == 12
