"""Which clip is trained on when: a pure function of seed, step and rank, so that a resumed run goes on exactly."""

from __future__ import annotations

from functools import lru_cache

import torch

from mochi_trainer.seeds import stream


def batch_indices(
    length: int, *, seed: int, step: int, batch: int, rank: int = 0, world: int = 1
) -> tuple[int, ...]:
    """The clips that `rank` of `world` takes in step `step` (from 0) of a run with `batch` clips a step over all ranks.

    All steps together walk through one permutation of the clips after the other. The clips of a step do not depend on
    `world`, only their distribution over the ranks does. Raises ValueError when `batch` is not a multiple of `world`.
    """
    if length < 1:
        raise ValueError(f"a dataset needs at least 1 clip, got {length}")
    share, rest = divmod(batch, world)
    if rest or not 0 <= rank < world:
        raise ValueError(f"{batch} clips cannot be shared by rank {rank} of {world}: a multiple is needed")
    first = step * batch + rank * share
    return tuple(permutation(length, seed, at // length)[at % length] for at in range(first, first + share))


@lru_cache(maxsize=4)
def permutation(length: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of `length` clips in one epoch."""
    order: list[int] = torch.randperm(length, generator=stream(seed, "order", step=epoch)).tolist()
    return tuple(order)
