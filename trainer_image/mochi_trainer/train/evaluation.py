"""Losses that can be compared from step to step: the same clips, noise and noise levels at every evaluation.

The fixed batch has clips that are trained on, the held out ones are never trained on: where the loss of the first falls and
that of the second rises, the model learns its clips by heart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from mochi_trainer.data import Dataset
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.group import Group
from mochi_trainer.seeds import Purpose, stream
from mochi_trainer.train.ahead import ahead, together
from mochi_trainer.train.draws import Example, mixed
from mochi_trainer.vae import LatentStatistics

SIGMAS = (0.125, 0.375, 0.625, 0.875)
CLIPS = 4
"""Of the fixed batch."""


class Case(NamedTuple):
    """One forward pass."""

    clip: int
    level: int
    """Of `SIGMAS`."""
    seed: int
    """With `purpose` and `number` that of the noise."""
    purpose: Purpose
    number: int


class Losses(NamedTuple):
    """Means over all clips."""

    loss: float
    """Over all noise levels too."""
    by_sigma: tuple[float, ...]
    """At each of `SIGMAS`."""


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
        own, levels = 0.0, [0.0] * len(SIGMAS)
        numbers = [turn * world + self._group.data_rank for turn in range(-(-count // world))]
        cases = [self._cases[number % count] for number in numbers]
        examples = together(ahead(map(self._example, cases), partial(agreed, False)), agreed)
        try:
            for number, case, example in zip(numbers, cases, examples, strict=True):
                found = float(example.to(self._device).loss(model))
                PROCESS.moved()
                if number < count:
                    own += found
                    levels[case.level] += found
        finally:
            model.train(training)
        told = count * self._group.context  # by each of the ranks that share a clip
        total, *sums = self._group.total([own, *levels])
        return Losses(total / told, tuple(each * len(SIGMAS) / told for each in sums))

    def _example(self, case: Case) -> Example:
        sample = self._dataset.sample(case.clip)
        sigma = torch.tensor([SIGMAS[case.level]])
        noise = stream(case.seed, case.purpose, step=case.number)
        z = sample.latents.mean[None]
        return mixed(z, sample.text, self._statistics, sigma, noise)


def fixed_batch(clips: Sequence[int], *, seed: int) -> list[Case]:
    """The first of the clips that are trained on; the noise depends on the run's seed."""
    pairs = [(clip, level) for clip in clips[:CLIPS] for level in range(len(SIGMAS))]
    return [Case(clip, level, seed, "validation", index) for index, (clip, level) in enumerate(pairs)]


def held_out(clips: Sequence[int], names: Sequence[str]) -> list[Case]:
    """All of the clips; the noise depends on a clip's name alone, so that runs with the same clips can be compared."""
    return [
        Case(clip, level, _number(names[clip]), "held-out", level)
        for clip in clips
        for level in range(len(SIGMAS))
    ]


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])
