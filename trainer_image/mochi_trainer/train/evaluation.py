"""Losses that can be compared from step to step: the same clips, noise and noise levels at every evaluation.

The fixed batch has clips that are trained on, the held out ones are never trained on: where the loss of the first falls and
that of the second rises, the model learns its clips by heart.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from mochi_api.resolved import LEAST_LEVELS, levels_a_clip
from mochi_trainer import sigma_bins
from mochi_trainer.data import Dataset
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.group import Group
from mochi_trainer.seeds import Purpose, stream
from mochi_trainer.train.ahead import ahead, together
from mochi_trainer.train.draws import Example, mixed
from mochi_trainer.vae import LatentStatistics

log = logging.getLogger(__name__)

CLIPS = 4
"""Of the fixed batch."""


class Case(NamedTuple):
    """One forward pass."""

    clip: int
    sigma: float
    seed: int
    """With `purpose` and `number` that of the noise."""
    purpose: Purpose
    number: int
    mirrored: bool = False
    """Whether it is the negative of that noise."""


class Losses(NamedTuple):
    """Means over all clips."""

    loss: float
    """Over all noise levels too."""
    by_sigma: tuple[float, ...]
    """In each of `mochi_trainer.sigma_bins`."""
    levels: int
    """Noise levels at which each clip was evaluated: losses of one number of them can be compared."""


class Evaluation:
    """Clips of the dataset, each at every noise level; the ranks share the work.

    It draws from no generator that training draws from, so that training goes on as if it had not been.
    """

    def __init__(
        self,
        dataset: Dataset,
        cases: Sequence[Case],
        statistics: LatentStatistics,
        *,
        group: Group,
        device: torch.device,
    ) -> None:
        self._dataset, self._cases, self._statistics = dataset, cases, statistics
        self._group, self._device = group, device

    @torch.no_grad()
    def losses(self, model: nn.Module, agreed: Callable[[bool], bool] = lambda ready: ready) -> Losses:
        """All ranks call it together, since sharded weights are gathered for it; `agreed` as for the steps."""
        training = model.training
        model.eval()
        count, world = len(self._cases), self._group.data_world
        own, bins, bad = 0.0, [0.0] * sigma_bins.BINS, Counter[str]()
        numbers = [turn * world + self._group.data_rank for turn in range(-(-count // world))]
        cases = [self._cases[number % count] for number in numbers]
        examples = together(ahead(map(self._example, cases), partial(agreed, False)), agreed)
        try:
            for number, case, example in zip(numbers, cases, examples, strict=True):
                found = float(example.to(self._device).loss(model))
                PROCESS.moved()
                if number < count:
                    own += found
                    bins[sigma_bins.bin_of(case.sigma)] += found
                    bad[self._dataset.clips[case.clip]] += not math.isfinite(found)
        finally:
            model.train(training)
        for clip, times in (+bad).items():
            log.warning("loss of the clip %s is not finite at %d of its noise levels", clip, times)
        told = count * self._group.context  # by each of the ranks that share a clip
        total, *sums = self._group.total([own, *bins])
        by_sigma = tuple(each * len(sums) / told for each in sums)
        return Losses(total / told, by_sigma, len({case.sigma for case in self._cases}))

    def _example(self, case: Case) -> Example:
        sample = self._dataset.sample(case.clip)
        sigma = torch.tensor([case.sigma])
        noise = stream(case.seed, case.purpose, step=case.number)
        z = sample.latents.mean[None]
        return mixed(z, sample.text, self._statistics, sigma, noise, mirrored=case.mirrored)


def fixed_batch(clips: Sequence[int], *, seed: int) -> list[Case]:
    """The first of the clips that are trained on; the noise depends on the run's seed."""
    pairs = [(clip, sigma) for clip in clips[:CLIPS] for sigma in middles(LEAST_LEVELS)]
    return [Case(clip, sigma, seed, "validation", index) for index, (clip, sigma) in enumerate(pairs)]


def held_out(clips: Sequence[int], names: Sequence[str], levels: int | None = None) -> list[Case]:
    """All of the clips, each at `levels` noise levels, as many as their number allows unless given.

    The noise depends on a clip's name alone, so that runs with the same clips can be compared. With more than the least
    levels every second one has the negative of the noise of the one before: what one direction of the noise adds to the
    difference of two checkpoints, the other takes away.
    """
    sigmas = middles(levels_a_clip(len(clips)) if levels is None else levels)
    together = 1 if len(sigmas) <= LEAST_LEVELS else 2
    return [
        Case(clip, sigma, _number(names[clip]), "held-out", index // together, index % together == 1)
        for clip in clips
        for index, sigma in enumerate(sigmas)
    ]


def middles(count: int) -> tuple[float, ...]:
    """The middles of so many equal parts of the noise levels from 0 to 1."""
    return tuple((part + 0.5) / count for part in range(count))


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])
