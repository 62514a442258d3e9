"""The training loop: yields every step; the caller decides what to show, store and when to stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from mochi_api.spec import TrainingSpec
from mochi_trainer.data import Dataset, TextFeatures, batch_indices
from mochi_trainer.errors import NonFiniteLossError
from mochi_trainer.flow.bins import by_sigma
from mochi_trainer.model import DiT
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.group import Group
from mochi_trainer.seeds import stream
from mochi_trainer.train.ahead import Awaited, ahead
from mochi_trainer.train.draws import Example, example, noise_level
from mochi_trainer.train.optimizer import learning_rate
from mochi_trainer.train.step import StepRecord, optimizer_step
from mochi_trainer.vae import LatentStatistics

NON_FINITE_LIMIT = 3
"""So many steps in a row with a loss or gradient that is not finite end the training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Everything a step needs; model and optimizer change in place."""

    model: DiT
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    clips: Sequence[int]
    """Those of the dataset that are trained on."""
    empty: TextFeatures
    """The empty prompt."""
    statistics: LatentStatistics
    spec: TrainingSpec
    group: Group
    device: torch.device

    @property
    def share(self) -> int:
        """Clips of one step on this rank."""
        return (self.spec.global_batch_size or self.group.world) // self.group.world


def steps(training: Training, *, done: int) -> Iterator[StepRecord]:
    """Train from step `done` + 1 to the last one.

    Raises NonFiniteLossError at the third step in a row that is not finite; the weights are those of the last finite one.
    """
    spec, bad = training.spec, 0
    training.model.train()
    drawn = Awaited(ahead(_drawn(training, range(done + 1, spec.steps + 1))))
    for step in range(done + 1, spec.steps + 1):
        _seed_dropout(training, step)
        record = optimizer_step(
            training.model,
            training.optimizer,
            _placed(islice(drawn, training.share), training.device),
            step=step,
            share=training.share,
            rate=learning_rate(step, spec),
            clip=float(spec.gradient_clip),
            group=training.group,
        )
        bad = 0 if record.finite else bad + 1
        levels = (float(noise_level(spec.seed, step, slot)) for slot in range(len(record.slots)))
        yield replace(record, data_seconds=drawn.spent(), by_sigma=by_sigma(record.slots, levels))
        if bad >= NON_FINITE_LIMIT:
            raise NonFiniteLossError(
                f"loss or gradient was not finite in {bad} steps in a row, the last with loss {record.loss} and "
                f"gradient norm {record.gradient_norm} at learning rate {record.learning_rate:g}",
                step=step,
            )


def _drawn(training: Training, numbers: Sequence[int]) -> Iterator[Example]:
    """This rank's examples of the steps, one after the other, in host memory."""
    spec, group, share = training.spec, training.group, training.share
    samples = training.dataset.samples(_clips(training, numbers))
    for step in numbers:
        for place, sample in enumerate(islice(samples, share)):
            drawn = example(
                sample.latents,
                sample.text,
                training.empty,
                training.statistics,
                seed=spec.seed,
                step=step,
                slot=group.rank * share + place,
                caption_dropout=float(spec.caption_dropout),
            )
            yield drawn.pinned() if training.device.type == "cuda" else drawn


def _clips(training: Training, numbers: Iterable[int]) -> Iterator[int]:
    """Which clips this rank takes in the steps."""
    for step in numbers:
        places = batch_indices(
            len(training.clips),
            seed=training.spec.seed,
            step=step - 1,
            batch=training.share * training.group.world,
            rank=training.group.rank,
            world=training.group.world,
        )
        yield from (training.clips[place] for place in places)


def _placed(examples: Iterable[Example], device: torch.device) -> Iterator[Example]:
    for each in examples:
        yield each.to(device)
        PROCESS.moved()  # asked for the next, the step has done this one


def _seed_dropout(training: Training, step: int) -> None:
    """Dropout inside the adapter draws from torch's global generator: make it a function of the step as well."""
    if training.spec.lora is not None and training.spec.lora.dropout:
        draws = stream(training.spec.seed, "adapter-dropout", step=step, rank=training.group.rank)
        torch.manual_seed(draws.initial_seed())
