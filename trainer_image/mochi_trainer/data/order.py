"""Which clip is trained on when: a pure function of seed, step and rank, so that a resumed run goes on exactly.

Clips of one step that differ in size keep the ranks with the small ones waiting. So where there are several sizes a step takes
clips of one, as far as that goes: of each epoch only those clips mix that are left over when every size is cut into whole
steps, at most as many steps as there are sizes and two more, where epochs meet. Each clip is still taken once an epoch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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


def sized_indices(sizes: Sequence[Hashable], *, seed: int, step: int, batch: int) -> tuple[int, ...]:
    """The clips of step `step` (from 0), `batch` of them, over all ranks; `sizes` has the size of each clip.

    Where all are alike the same as `batch_indices`. Raises ValueError without a clip.
    """
    kinds = list(dict.fromkeys(sizes))
    if len(kinds) < 2:
        return batch_indices(len(sizes), seed=seed, step=step, batch=batch)
    numbers = tuple(kinds.index(size) for size in sizes)
    return tuple(
        _epoch(numbers, seed, at // len(sizes), batch)[at % len(sizes)]
        for at in range(step * batch, (step + 1) * batch)
    )


@lru_cache(maxsize=4)
def _epoch(kinds: tuple[int, ...], seed: int, epoch: int, batch: int) -> tuple[int, ...]:
    """The order of the clips in one epoch, which begins in the middle of a step unless the one before ended with one."""
    length = len(kinds)
    lead = min(-epoch * length % batch, length)
    room = (length - lead) // batch
    order = permutation(length, seed, epoch)
    wholes: list[tuple[int, ...]] = []
    rest: list[int] = []
    for kind in sorted(set(kinds)):
        own = [clip for clip in order if kinds[clip] == kind]
        cut = len(own) - len(own) % batch
        wholes += [tuple(own[at : at + batch]) for at in range(0, cut, batch)]
        rest += own[cut:]
    shuffled = [wholes[at] for at in _shuffled(len(wholes), seed, epoch)]
    rest = sorted([*rest, *(clip for whole in shuffled[room:] for clip in whole)], key=kinds.__getitem__)
    mixed = [tuple(rest[at : at + batch]) for at in range(lead, len(rest) - batch + 1, batch)]
    steps = [*shuffled[:room], *mixed]
    middle = [steps[at] for at in _shuffled(len(steps), seed, epoch)]
    tail = rest[lead + batch * len(mixed) :]
    return (*rest[:lead], *(clip for step in middle for clip in step), *tail)


def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=stream(seed, "order-of-sizes", step=epoch)).tolist()
    return order


@lru_cache(maxsize=4)
def permutation(length: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of `length` clips in one epoch."""
    order: list[int] = torch.randperm(length, generator=stream(seed, "order", step=epoch)).tolist()
    return tuple(order)
