"""The order of the clips depends on seed, step and rank only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_trainer.data import batch_indices, sized_indices


@given(length=st.integers(1, 40), seed=st.integers(0, 2**31 - 1), batch=st.integers(1, 8))
def test_an_epoch_takes_each_clip_once(length: int, seed: int, batch: int) -> None:
    taken = [
        index for step in range(length) for index in batch_indices(length, seed=seed, step=step, batch=batch)
    ]
    for epoch in range(batch):
        assert sorted(taken[epoch * length : (epoch + 1) * length]) == list(range(length))


@given(length=st.integers(1, 40), step=st.integers(0, 1000), world=st.integers(1, 8), share=st.integers(1, 4))
def test_ranks_share_what_one_rank_would_take(length: int, step: int, world: int, share: int) -> None:
    batch = world * share
    alone = batch_indices(length, seed=7, step=step, batch=batch)
    shared = [
        batch_indices(length, seed=7, step=step, batch=batch, rank=rank, world=world) for rank in range(world)
    ]
    assert sum(shared, ()) == alone


def test_epochs_and_seeds_differ() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        steps = range(number * 20, number * 20 + 20)
        return [batch_indices(20, seed=seed, step=step, batch=1)[0] for step in steps]

    assert epoch(0, 1) != epoch(1, 1)
    assert epoch(0, 1) != epoch(0, 2)
    assert epoch(3, 1) == epoch(3, 1)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="3 clips cannot be shared by rank 0 of 2"):
        batch_indices(5, seed=1, step=0, batch=3, world=2)
    with pytest.raises(ValueError, match="at least 1 clip, got 0"):
        batch_indices(0, seed=1, step=0, batch=1)


def steps_of(sizes: list[str], *, seed: int, batch: int, count: int) -> list[tuple[int, ...]]:
    return [sized_indices(sizes, seed=seed, step=step, batch=batch) for step in range(count)]


@given(
    sizes=st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
    seed=st.integers(0, 2**31 - 1),
    batch=st.integers(1, 8),
)
def test_an_epoch_of_several_sizes_takes_each_clip_once(sizes: list[str], seed: int, batch: int) -> None:
    length = len(sizes)
    taken = sum(steps_of(sizes, seed=seed, batch=batch, count=length), ())
    for epoch in range(batch):
        assert sorted(taken[epoch * length : (epoch + 1) * length]) == list(range(length))


@given(
    sizes=st.lists(st.sampled_from("abc"), min_size=1, max_size=60),
    seed=st.integers(0, 2**31 - 1),
    batch=st.integers(1, 8),
)
def test_few_steps_of_an_epoch_mix_sizes(sizes: list[str], seed: int, batch: int) -> None:
    """Those of which no size has enough left, and the two that an epoch shares with its neighbours."""
    length, epochs = len(sizes), 5
    steps = steps_of(sizes, seed=seed, batch=batch, count=epochs * length // batch)
    mixed = sum(len({sizes[clip] for clip in step}) > 1 for step in steps)
    assert mixed <= epochs * (len(set(sizes)) + 2)


def test_all_steps_are_of_one_size_where_that_goes() -> None:
    sizes = [*"a" * 8, *"b" * 4, *"c" * 16]
    steps = steps_of(sizes, seed=3, batch=4, count=21)
    kinds = [{sizes[clip] for clip in step} for step in steps]
    assert all(len(kind) == 1 for kind in kinds)
    assert len({tuple(map(tuple, kinds[at : at + 7])) for at in (0, 7, 14)}) == 3
    assert sorted(min(kind) for kind in kinds[:7]) == [*"aabcccc"]


def test_clips_of_one_size_are_taken_as_ever() -> None:
    for step in range(9):
        alike = sized_indices(["a"] * 7, seed=5, step=step, batch=3)
        assert alike == batch_indices(7, seed=5, step=step, batch=3)
