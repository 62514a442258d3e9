"""Which checkpoint a training goes on from, and which go: the newest good one of any attempt, and never a newer attempt's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_api import layout
from mochi_trainer.train.places import Place, next_to_try, places, superfluous

ANY_PLACE = st.builds(Place, st.integers(0, 12), st.integers(1, 4))
ANY_PLACES = st.lists(ANY_PLACE, max_size=20, unique=True)


@given(ANY_PLACES)
def test_a_checkpoint_is_found_by_its_name(some: list[Place]) -> None:
    keys = [f"{place.prefix}/manifest.json" for place in some]
    assert places(keys) == sorted(some, reverse=True)


@given(st.integers(0, 10**7), st.integers(1, 200), st.integers(1, 200))
def test_no_two_attempts_share_an_address(step: int, one: int, other: int) -> None:
    same = layout.checkpoint("r", step, one) == layout.checkpoint("r", step, other)
    assert same == (one == other)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("checkpoints/step-000200/manifest.json", [Place(200, 1)]),
        ("checkpoints/step-000200-a2/manifest.json", [Place(200, 2)]),
        ("checkpoints/step-1000000-a12/shard-00000-of-00001.safetensors", [Place(1000000, 12)]),
        ("checkpoints/step-000200-a1/manifest.json", []),
        ("checkpoints/step-000200-a02/manifest.json", []),
        ("checkpoints/step-200/manifest.json", []),
        ("checkpoints/step-000200-b2/manifest.json", []),
        ("checkpoints/step-000200", []),
        ("attempts/a000002.json", []),
    ],
)
def test_names_that_are_none_of_ours_are_no_checkpoints(key: str, expected: list[Place]) -> None:
    assert places([key]) == expected


@pytest.mark.parametrize(
    ("found", "tried", "expected"),
    [
        ([], [], None),
        ([(200, 1)], [], (200, 1)),
        ([(200, 1), (200, 3), (200, 2)], [], (200, 3)),
        ([(400, 1), (200, 3)], [], (400, 1)),
        ([(400, 1), (200, 3)], [(400, 1)], (200, 3)),
        ([(400, 1)], [(400, 1)], None),
    ],
)
def test_the_highest_step_is_tried_first_and_then_the_highest_attempt(
    found: list[tuple[int, int]], tried: list[tuple[int, int]], expected: tuple[int, int] | None
) -> None:
    assert next_to_try([Place(*each) for each in found], {Place(*each) for each in tried}) == expected


@pytest.mark.parametrize(
    ("found", "broken", "saved", "keep", "expected"),
    [
        pytest.param([(2, 1), (4, 1), (6, 1)], [], (6, 1), 2, [(2, 1)], id="all but the newest"),
        pytest.param(
            [(2, 1), (4, 1), (6, 1)], [(4, 1)], (6, 1), 2, [], id="a broken one is none of those kept"
        ),
        pytest.param(
            [(1, 1), (2, 1), (4, 1)], [(1, 1)], (4, 1), 2, [(1, 1)], id="what is left of a broken one"
        ),
        pytest.param([(2, 1), (4, 1), (4, 2)], [], (4, 2), 1, [(4, 1), (2, 1)], id="those of older attempts"),
        pytest.param([(2, 1), (4, 1), (4, 2)], [], (4, 1), 1, [(2, 1)], id="never those of newer attempts"),
        pytest.param([(8, 1), (4, 2)], [], (4, 2), 1, [], id="a later one that was no good keeps no place"),
        pytest.param([(8, 1), (8, 2), (4, 2)], [], (8, 2), 1, [(8, 1), (4, 2)], id="until it is passed"),
    ],
)
def test_what_goes(
    found: list[tuple[int, int]],
    broken: list[tuple[int, int]],
    saved: tuple[int, int],
    keep: int,
    expected: list[tuple[int, int]],
) -> None:
    going = superfluous(
        [Place(*each) for each in found],
        lambda place: place not in broken,
        saved=Place(*saved),
        keep_last=keep,
    )
    assert going == expected


@given(ANY_PLACES, st.sets(ANY_PLACE), ANY_PLACE, st.integers(1, 4))
def test_what_was_just_saved_and_what_is_newer_stay(
    found: list[Place], broken: set[Place], saved: Place, keep: int
) -> None:
    found, broken = list({*found, saved}), broken - {saved}
    going = superfluous(found, lambda place: place not in broken, saved=saved, keep_last=keep)
    assert saved not in going
    assert all(place.attempt <= saved.attempt and place < saved for place in going)
    left = [place for place in found if place not in going and place not in broken]
    ours = [place for place in found if place.attempt <= saved.attempt and place.step <= saved.step]
    complete = [place for place in ours if place not in broken]
    assert len([place for place in left if place in ours]) == min(keep, len(complete))
