"""Which examples a rank is fed: the clips of its steps, drawn one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import torch

from mochi_api.spec import TrainingSpec
from mochi_trainer.data import Dataset, Sample, TextFeatures, batch_indices, sized_indices
from mochi_trainer.model import DiT
from mochi_trainer.parallel.group import Group
from mochi_trainer.train.average import Average
from mochi_trainer.train.draws import Example, example
from mochi_trainer.vae import LatentStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Everything a step needs; model, optimizer and average change in place."""

    model: DiT
    optimizer: torch.optim.Optimizer
    average: Average | None
    """Of the weights, kept with each step; None where there is none."""
    dataset: Dataset
    clips: Sequence[int]
    """Those of the dataset that are trained on."""
    empty: TextFeatures
    """The empty prompt."""
    statistics: LatentStatistics
    spec: TrainingSpec
    group: Group
    device: torch.device
    synchronise_once: bool = False
    """Whether sharded gradients are summed over the ranks with the last clip of a step only."""

    def averaged(self) -> AbstractContextManager[None]:
        """For the length of the block the model has the average of its weights, where there is one."""
        return nullcontext() if self.average is None else self.average.in_place()

    @property
    def share(self) -> int:
        """Clips of one step on this rank."""
        return (self.spec.global_batch_size or self.group.data_world) // self.group.data_world

    @property
    def batch(self) -> int:
        """Clips of one step on all ranks."""
        return self.share * self.group.data_world

    def slots(self, step: int) -> list[int]:
        """The clips of step `step`, from 1, over all ranks: each in its slot."""
        sizes, seed, batch = self.dataset.sizes, self.spec.seed, self.batch
        if sizes:
            kinds = [sizes[clip] for clip in self.clips]
            places = sized_indices(kinds, seed=seed, step=step - 1, batch=batch)
        else:
            places = batch_indices(len(self.clips), seed=seed, step=step - 1, batch=batch)
        return [self.clips[place] for place in places]

    def example(self, sample: Sample, step: int, slot: int) -> Example:
        """What a clip is made to in `slot` of step `step`, in host memory."""
        return example(
            sample.latents,
            sample.text,
            self.empty,
            self.statistics,
            seed=self.spec.seed,
            step=step,
            slot=slot,
            caption_dropout=float(self.spec.caption_dropout),
        )


def drawn(training: Training, numbers: Sequence[int]) -> Iterator[Example]:
    """This rank's examples of the steps `numbers`, one after the other, in host memory."""
    share, first = training.share, training.group.data_rank * training.share
    samples = training.dataset.samples(_clips(training, numbers))
    for step in numbers:
        for place, sample in enumerate(islice(samples, share)):
            made = training.example(sample, step, first + place)
            yield made.pinned() if training.device.type == "cuda" else made


def _clips(training: Training, numbers: Iterable[int]) -> Iterator[int]:
    """Which clips this rank takes in the steps."""
    share, first = training.share, training.group.data_rank * training.share
    for step in numbers:
        yield from training.slots(step)[first : first + share]
