"""Pictures are those that a player shows at each time: edit lists, starts, variable rates, and the end."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video import Cut, Limits, read_clip, shown_frames
from mochi_trainer.video.selection import SLACK
from tests.trainer.video.boxed import TABLES, boxes, rewritten
from tests.trainer.video.clips import box, grey_levels, real_clip, with_edits, write_clip

FRAMES = 30
STEP = 10
"""Milliseconds of which all times are a multiple, so that none meets the middle of an interval."""

Edits = list[tuple[int, int | None, float]]
gaps = st.lists(st.integers(2, 30).map(lambda gap: gap * STEP), min_size=FRAMES, max_size=FRAMES)
edit = st.tuples(
    st.integers(5, 400).map(lambda time: time * STEP),
    st.none() | st.integers(0, 500).map(lambda time: time * STEP),
    st.just(1.0),
)


def literal(times: list[int], end: int, edits: Edits, *, fps: int, start: float, count: int) -> list[int]:
    """Numbers of the frames on screen, written from the definition: every millisecond is asked for."""
    edits = edits or [(end, 0, 1.0)]
    shown: list[int | None] = []
    latest: int | None = None
    for duration, media, _ in edits:
        for millisecond in range(duration):
            if media is not None and media + millisecond >= times[0]:
                latest = max(k for k, time in enumerate(times) if time <= media + millisecond)
            shown.append(latest)
    last = sum(duration for duration, _, _ in edits)
    while edits[-1][1] is None:  # nothing new is shown at the end
        last -= edits[-1][0]
        edits = edits[:-1]
    duration, media, _ = edits[-1]
    last = min(last, last - duration + max(end - media, 0))
    if all(number is None for number in shown):
        return []
    first = next(k for k, number in enumerate(shown) if number is not None)
    chosen = [first + start * 1000 + (k + 0.5) * 1000 / fps - SLACK * 1000 for k in range(count)]
    return [shown[int(time)] for time in chosen if time < last]


def _times(steps: list[int]) -> tuple[list[int], int]:
    times = [0, *accumulate(steps)]
    return times[:-1], times[-1]


def _numbers(path: Path, *, fps: int, start: float, count: int) -> list[int]:
    frames = read_clip(
        path, Cut(frames=count, least=0, fps=fps, width=48, height=32, start_seconds=start)
    ).frames
    return [round(float(frame.mean()) / 8) for frame in frames]


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to make it smaller takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    gaps,
    st.lists(edit, max_size=4).filter(
        lambda edits: not edits or any(media is not None for _, media, _ in edits)
    ),
    st.sampled_from([10, 24, 25, 30, 50]),
    st.sampled_from([0.0, 0.3, 1.0, 6.0]),
    st.integers(1, 40),
)
def test_pictures_are_those_of_the_presentation(
    tmp_path: Path, steps: list[int], edits: Edits, fps: int, start: float, count: int
) -> None:
    times, end = _times(steps)
    edits = [
        (duration, media if media is None else min(media, times[-1]), rate) for duration, media, rate in edits
    ]
    path = write_clip(tmp_path / "clip.mp4", grey_levels(FRAMES), times, last=steps[-1], options={"g": "7"})
    if edits:
        with_edits(path, edits)
    expected = literal(times, end, edits, fps=fps, start=start, count=count)
    assert _numbers(path, fps=fps, start=start, count=count) == expected


def test_the_frame_on_screen_where_an_edit_begins_is_shown_first(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_levels(12), [100 * k for k in range(12)])
    with_edits(path, [(500, 250, 1.0)])
    assert _numbers(path, fps=20, start=0, count=99) == [2, 3, 3, 4, 4, 5, 5, 6, 6, 7]


def test_an_empty_edit_at_the_start_is_no_picture_and_one_in_the_middle_holds_the_last(
    tmp_path: Path,
) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_levels(12), [100 * k for k in range(12)])
    with_edits(path, [(300, None, 1.0), (200, 500, 1.0), (300, None, 1.0), (200, 100, 1.0)])
    assert _numbers(path, fps=10, start=0, count=99) == [5, 6, 6, 6, 6, 1, 2]


def test_a_start_in_a_gap_shows_what_is_held(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_levels(12), [600 * k for k in range(12)])
    with_edits(path, [(700, 500, 1.0), (8000, None, 1.0), (600, 0, 1.0)])
    assert _numbers(path, fps=2, start=6.0, count=99) == [1, 1, 1, 1, 1, 0, 0]
    assert _numbers(path, fps=2, start=8.7, count=99) == [0]


def test_an_edit_can_stand_still_or_run_faster(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_levels(12), [100 * k for k in range(12)])
    with_edits(path, [(300, 450, 0.0), (300, 600, 2.0)])
    assert _numbers(path, fps=10, start=0, count=99) == [4, 4, 4, 6, 8, 10]


def test_an_edit_that_takes_no_time_shows_nothing_but_as_the_last_all_to_the_end(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_levels(12), [100 * k for k in range(12)])
    with_edits(path, [(0, 300, 1.0), (300, 900, 1.0)])
    assert _numbers(path, fps=10, start=0, count=99) == [9, 10, 11]
    with_edits(path, [(300, 900, 1.0), (0, 300, 1.0)])
    assert _numbers(path, fps=10, start=0, count=99) == [9, 10, 11, *range(3, 12)]


REORDERED = [0, 40, 80, 1000, 1040, 2000, 2040, 2080, 3000, 3040, 3080, 3120]
"""Times of pictures that are decoded in another order: how long a sample lasts is not how long it is shown."""


def _late(path: Path) -> int:
    """Milliseconds of the media at which the first picture is."""
    with av.open(str(path), options={"ignore_editlist": "1"}) as container:
        first = min(packet.pts for packet in container.demux(video=0) if packet.pts is not None)
        return round(1000 * first * container.streams.video[0].time_base)


@pytest.mark.parametrize("end", [990, 1990, 2990])
def test_the_last_picture_of_an_edit_stays_until_its_end(tmp_path: Path, end: int) -> None:
    path = write_clip(
        tmp_path / "clip.mp4", grey_levels(12), REORDERED, options={"bf": "3", "b_strategy": "0"}
    )
    with_edits(path, [(end, _late(path), 1.0)])
    chosen = [1000 * (k + 0.5) / 25 - SLACK * 1000 for k in range(end // 40 + 2)]
    expected = [max(n for n, time in enumerate(REORDERED) if time <= at) for at in chosen if at < end]
    assert _numbers(path, fps=25, start=0, count=999) == expected


@pytest.mark.parametrize("media", [75, 990, 1045, 2035])
def test_a_picture_that_stands_still_is_that_of_its_time(tmp_path: Path, media: int) -> None:
    path = write_clip(
        tmp_path / "clip.mp4", grey_levels(12), REORDERED, options={"bf": "3", "b_strategy": "0"}
    )
    with_edits(path, [(200, _late(path) + media, 0.0)])
    number = max(n for n, time in enumerate(REORDERED) if time <= media)
    assert _numbers(path, fps=25, start=0, count=999) == [number] * 5


@pytest.mark.parametrize("last", [40, 100, 1000])
def test_the_last_frame_lasts_as_long_as_its_packet_says(tmp_path: Path, last: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_levels(4), [0, 100, 200, 300], last=last)
    assert _numbers(path, fps=50, start=0, count=999) == [0] * 5 + [1] * 5 + [2] * 5 + [3] * (last // 20)


def test_a_start_in_the_file_is_taken_off(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_levels(5), [5000 + 40 * k for k in range(5)])
    assert _numbers(path, fps=25, start=0, count=99) == [0, 1, 2, 3, 4]


def test_a_fragmented_file_has_the_same_pictures(tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    write_clip(whole, grey_levels(20), [40 * k for k in range(20)], options={"g": "5"})
    parts = tmp_path / "parts.mp4"
    with (
        av.open(str(whole)) as source,
        av.open(str(parts), "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert b"moof" in parts.read_bytes()
    assert _numbers(parts, fps=25, start=0, count=99) == list(range(20))
    assert _numbers(parts, fps=25, start=0.4, count=99) == list(range(10, 20))


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("bikes.mp4", 1.0),
        ("bikes.mp4", 5.0),
        ("bikes.mp4", 7.3),
        ("bigbuckbunny.mp4", 1.0),
        ("carphone_pristine.mp4", 1.0),
    ],
)
def test_a_start_far_inside_gives_the_same_pictures_as_reading_all(name: str, start: float) -> None:
    path = real_clip(name)
    size = {"fps": 25, "width": 112, "height": 64}
    found = read_clip(path, Cut(frames=8, least=8, start_seconds=start, **size)).frames
    assert np.array_equal(found, _all(path, start, 8, size))


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
@pytest.mark.parametrize("said", ["all", "a false one"])
def test_keyframes_that_are_none_cost_no_picture(tmp_path: Path, codec: str, said: str) -> None:
    """Of a file without a list of them all count as keyframes; decoders begin at true ones."""
    options = {
        "libx264": {"g": "250"},
        "libvpx-vp9": {"crf": "5", "b": "0", "g": "250"},
    }[codec]
    path = write_clip(
        tmp_path / "clip.mp4", grey_levels(24), [400 * k for k in range(24)], codec=codec, options=options
    )
    whole = _numbers(path, fps=5, start=0, count=99)
    table = b"" if said == "all" else box(b"stss", struct.pack(">4I", 0, 2, 1, 16))
    rewritten(path, TABLES, lambda tables: box(b"stbl", boxed_without(tables, b"stss"), table))
    assert _numbers(path, fps=5, start=6.0, count=99) == whole[30:]


def boxed_without(tables: bytes, kind: bytes) -> bytes:
    return b"".join(whole for name, whole in boxes(tables) if name != kind)


def _all(path: Path, start: float, count: int, size: dict[str, int]) -> np.ndarray:
    """The same by reading from the first frame on, at a rate at which intervals are those of the start."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        first = None
        times = []
        for frame in container.decode(stream):
            time = frame.pts * Fraction(frame.time_base)
            first = time if first is None else first
            times.append(float(time - first))
    wanted = [start + (k + 0.5) / size["fps"] - SLACK for k in range(count)]
    numbers = [max(k for k, time in enumerate(times) if time <= at) for at in wanted]
    rate = (len(times) - 1) / times[-1]
    every = read_clip(path, Cut(frames=max(numbers) + 1, least=1, fps=rate, width=112, height=64)).frames
    return every[numbers]


@pytest.mark.parametrize(("times", "last"), [([0], 12), ([0, 4, 8], 5), ([500], 1), ([0], 14)])
def test_a_clip_that_is_gone_before_its_first_frame_is_too_short(
    tmp_path: Path, times: list[int], last: int
) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_levels(len(times)), times, last=last)
    cut = Cut(frames=7, least=1, fps=30, width=48, height=32)
    for read in (lambda: read_clip(path, cut), lambda: shown_frames(path, 30, 0, Limits())):
        with pytest.raises(ClipError, match=f"for 0.0{times[-1] - times[0] + last:02} s in all") as caught:
            read()
        assert caught.value.reason is ClipReason.TOO_SHORT


def test_a_clip_of_half_an_interval_has_a_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_levels(1), [0], last=17)
    assert len(read_clip(path, Cut(frames=7, least=1, fps=30, width=48, height=32)).frames) == 1
    assert shown_frames(path, 30, 0, Limits()) == 1
