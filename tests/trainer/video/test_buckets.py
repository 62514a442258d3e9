"""A clip gets the size that loses least of it: shape first, then frames, then detail."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_api.sizes import Bucket
from mochi_trainer.video import Limits
from mochi_trainer.video.buckets import ALIKE, bucket_for, bucket_of_clip, cut_away
from tests.trainer.video.clips import grey_levels, turn_clockwise, write_clip

WIDE, TALL, SQUARE = Bucket(37, 848, 480), Bucket(37, 480, 848), Bucket(37, 640, 640)
LONG = Bucket(85, 640, 352)
SMALL = Bucket(37, 424, 240)
sizes = st.builds(
    Bucket,
    st.sampled_from([7, 13, 37, 85]),
    st.integers(2, 53).map(lambda n: 16 * n),
    st.integers(2, 53).map(lambda n: 16 * n),
)


@pytest.mark.parametrize(
    ("width", "height", "frames", "expected"),
    [
        pytest.param(1920, 1080, 40, WIDE, id="wide"),
        pytest.param(1080, 1920, 40, TALL, id="tall"),
        pytest.param(1000, 1000, 400, SQUARE, id="square, although another is longer"),
        pytest.param(1920, 1080, 85, LONG, id="of nearly the same shape the longer"),
        pytest.param(1920, 1080, 84, WIDE, id="one frame too short for that"),
        pytest.param(640, 360, 40, SMALL, id="the others would enlarge it"),
        pytest.param(320, 180, 40, SMALL, id="all enlarge it, this one least"),
        pytest.param(1920, 1080, 3, WIDE, id="too short for all: of the shortest the nearest"),
        pytest.param(480, 848, 100, TALL, id="as tall"),
    ],
)
def test_the_size_that_loses_least(width: int, height: int, frames: int, expected: Bucket) -> None:
    for order in permutations((WIDE, TALL, SQUARE, LONG, SMALL)):
        assert bucket_for(width, height, frames, order) == expected


@given(
    st.integers(16, 4000), st.integers(16, 4000), st.integers(0, 200), st.lists(sizes, min_size=1, max_size=8)
)
def test_no_other_size_is_better(width: int, height: int, frames: int, buckets: list[Bucket]) -> None:
    found = bucket_for(width, height, frames, buckets)
    shortest = min(each.frames for each in buckets)
    filled = [each for each in buckets if each.frames <= max(frames, shortest)]
    assert found in filled
    least = min(cut_away(width, height, each) for each in filled)
    assert cut_away(width, height, found) <= least + ALIKE
    longer = [each for each in filled if each.frames > found.frames]
    assert all(cut_away(width, height, each) > least + ALIKE for each in longer)


def test_a_clip_is_judged_as_it_is_shown_and_by_the_frames_after_its_start(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, grey_levels(20, height=32, width=64), [100 * k for k in range(20)])
    short, long = Bucket(7, 64, 32), Bucket(19, 64, 32)
    upright = Bucket(7, 32, 64)

    def found(where: Path, start: float = 0.0) -> Bucket:
        return bucket_of_clip(where, 10, start, [upright, short, long], Limits())

    assert found(path) == long
    assert found(path, 0.5) == short
    assert found(turn_clockwise(path)) == upright
