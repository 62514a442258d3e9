"""Which clips are held out depends on their names only."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_trainer.data import split
from mochi_trainer.data.split import source_of
from mochi_trainer.errors import InvalidInputError

names = st.lists(
    st.builds(
        lambda source, segment: f"{source}{segment}",
        st.sampled_from("abcdefgh"),
        st.sampled_from(["", "__00", "__01"]),
    ),
    min_size=1,
    unique=True,
).map(sorted)


@given(clips=names, asked=st.integers(0, 7))
def test_no_source_is_on_both_sides(clips: list[str], asked: int) -> None:
    sources = {source_of(clip) for clip in clips}
    if asked >= len(sources):
        with pytest.raises(InvalidInputError, match=f"less than the {len(sources)} clips"):
            split(clips, asked)
        return
    found = split(clips, asked)
    trained, out = ({source_of(clips[index]) for index in side} for side in found)
    assert trained.isdisjoint(out)
    assert len(out) == len(found.held_out) == asked
    assert trained | out == sources
    assert list(found.training) == [i for i, clip in enumerate(clips) if source_of(clip) in trained]


@given(clips=names)
def test_one_held_out_clip_more_keeps_the_others(clips: list[str]) -> None:
    sources = {source_of(clip) for clip in clips}
    sides = [set(split(clips, asked).held_out) for asked in range(len(sources))]
    assert all(fewer < more for fewer, more in pairwise(sides))


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (19, 0), (20, 2), (57, 5), (1000, 8)])
def test_few_clips_are_all_trained_on_and_of_many_a_few_are_held_out(count: int, held_out: int) -> None:
    found = split([f"clip-{number}" for number in range(count)], None)
    assert (len(found.training), len(found.held_out)) == (count - held_out, held_out)


links = st.dictionaries(
    st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), max_size=2), max_size=5
)


@given(clips=names, asked=st.integers(0, 7), repeats=links)
def test_what_shows_the_same_is_never_on_both_sides(
    clips: list[str], asked: int, repeats: dict[str, list[str]]
) -> None:
    try:
        found = split(clips, asked, repeats)
    except InvalidInputError:
        return
    assert len(found.held_out) == asked
    trained, out = ({source_of(clips[index]) for index in side} for side in found)
    for clip, others in repeats.items():
        for other in others:
            assert not (clip in trained and other in out)
            assert not (clip in out and other in trained)
    assert sorted([*found.training, *found.held_out, *found.left_out(len(clips))]) == list(range(len(clips)))


def test_copies_of_copies_belong_together_also_by_way_of_a_clip_that_is_not_used() -> None:
    repeats = {"b": ["a"], "c": ["gone"], "d": ["b", "gone"]}
    assert [split(list("abcde"), count, repeats).training for count in (0, 1)] == [
        (0, 1, 2, 3, 4),
        (0, 1, 2, 3),
    ]
    with pytest.raises(
        InvalidInputError, match="less than the 2 that differ among the 5 clips of the dataset, got 2"
    ):
        split(list("abcde"), 2, repeats)


def test_unasked_no_more_clips_are_lost_to_the_training_than_a_tenth() -> None:
    clips = [f"clip-{number:02d}" for number in range(40)]
    pairs = {clip: [clips[number - 1]] for number, clip in enumerate(clips) if number % 2}
    found = split(clips, None, pairs)
    assert (len(found.training), len(found.held_out), len(found.left_out(40))) == (36, 2, 2)
    halves = {clip: [clips[number // 20 * 20]] for number, clip in enumerate(clips) if number % 20}
    assert split(clips, None, halves).held_out == ()
