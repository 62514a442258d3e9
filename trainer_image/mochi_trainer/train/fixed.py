"""The fixed batch: the same clips, noise and noise levels at every evaluation, so that its loss can be compared."""

from __future__ import annotations

import torch
from torch import nn

from mochi_trainer.data import Dataset
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.group import Group
from mochi_trainer.seeds import stream
from mochi_trainer.train.draws import Example, mixed
from mochi_trainer.vae import LatentStatistics

SIGMAS = (0.125, 0.375, 0.625, 0.875)
CLIPS = 4


class FixedBatch:
    """The first clips of the dataset, each at every noise level; the ranks share the work."""

    def __init__(
        self, dataset: Dataset, statistics: LatentStatistics, *, seed: int, group: Group, device: torch.device
    ) -> None:
        self._dataset, self._statistics = dataset, statistics
        self._seed, self._group, self._device = seed, group, device
        clips = min(CLIPS, len(dataset))
        self._cases = [(clip, sigma) for clip in range(clips) for sigma in SIGMAS]

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """The mean loss over all cases; all ranks call it together, since sharded weights are gathered for it."""
        training = model.training
        model.eval()
        own, rounds = 0.0, -(-len(self._cases) // self._group.world)
        for turn in range(rounds):
            index = turn * self._group.world + self._group.rank
            found = float(self._example(index % len(self._cases)).loss(model))
            PROCESS.moved()
            own += found if index < len(self._cases) else 0.0
        model.train(training)
        return self._group.total([own])[0] / len(self._cases)

    def _example(self, index: int) -> Example:
        clip, sigma = self._cases[index]
        sample = self._dataset.sample(clip)
        noise = stream(self._seed, "validation", step=index)
        z = sample.latents.mean[None]
        return mixed(z, sample.text, self._statistics, torch.tensor([sigma]), noise).to(self._device)
