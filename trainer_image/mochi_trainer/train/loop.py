"""The training loop: yields every step; the caller decides what to show, store and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import torch

from mochi_trainer.errors import NonFiniteLossError
from mochi_trainer.movement import PROCESS
from mochi_trainer.seeds import stream
from mochi_trainer.sigma_bins import by_sigma
from mochi_trainer.train.ahead import Awaited, ahead, together
from mochi_trainer.train.diagnosis import bad_layer
from mochi_trainer.train.draws import Example, noise_level
from mochi_trainer.train.feeding import Training, drawn
from mochi_trainer.train.optimizer import learning_rate
from mochi_trainer.train.step import StepRecord, optimizer_step

NON_FINITE_LIMIT = 3
"""So many steps in a row with a loss or gradient that is not finite end the training."""


def steps(
    training: Training, *, done: int, agreed: Callable[[bool], bool] = lambda ready: ready
) -> Iterator[StepRecord]:
    """Train from step `done` + 1 to the last one.

    Before each clip the ranks agree that all have theirs: `agreed` is called with whether this rank does, again and again until
    it says that all do; what it raises ends the training in the midst of a step, of which nothing is left but gradients.

    Raises NonFiniteLossError at the third step in a row that is not finite; the weights are those of the last finite one.
    """
    spec, bad = training.spec, 0
    training.model.train()
    examples = drawn(training, range(done + 1, spec.steps + 1))
    awaited = Awaited(ahead(examples, partial(agreed, False)))
    coming = together(awaited, agreed)
    for step in range(done + 1, spec.steps + 1):
        _seed_dropout(training, step)
        record = _noted(
            training,
            optimizer_step(
                training.model,
                training.optimizer,
                _placed(islice(coming, training.share), training.device),
                step=step,
                share=training.share,
                rate=learning_rate(step, spec),
                clip=float(spec.gradient_clip),
                group=training.group,
                average=training.average,
                synchronise_once=training.synchronise_once,
            ),
            waited=awaited.spent(),
        )
        bad = 0 if record.finite else bad + 1
        yield record
        if bad >= NON_FINITE_LIMIT:
            raise NonFiniteLossError(
                f"loss or gradient was not finite in {bad} steps in a row, the last with loss {record.loss} and "
                f"gradient norm {record.gradient_norm} at learning rate {record.learning_rate:g}: {record.cause}",
                step=step,
            )


def _noted(training: Training, record: StepRecord, *, waited: float) -> StepRecord:
    """The record with what the step itself does not know. All ranks call together."""
    levels = [float(noise_level(training.spec.seed, record.step, slot)) for slot in range(training.batch)]
    return replace(
        record,
        data_seconds=waited,
        by_sigma=by_sigma(record.slots, levels),
        cause="" if record.finite else _cause(training, record, levels),
    )


def _cause(training: Training, record: StepRecord, levels: Sequence[float]) -> str:
    """Which clip, and in which layer, of a step that is not finite; the clip is computed once more for that."""
    slot = next((slot for slot, loss in enumerate(record.slots) if not math.isfinite(loss)), None)
    if slot is None:
        names = [name for name in training.group.gathered(record.bad_gradient) if name]
        where = f"; counted from the output, they begin at {names[0]}" if names else ""
        return f"the losses of all its clips are finite, but not the gradients{where}"
    sample = training.dataset.sample(training.slots(record.step)[slot])
    made = training.example(sample, record.step, slot)
    clip = f"clip {sample.clip} at noise level {levels[slot]:.3f}"
    if not bool(made.x.isfinite().all() and made.text.isfinite().all()):
        return f"{clip}: its own latents or caption features are not finite"
    layers = training.group.gathered(bad_layer(training.model, made.to(training.device)))
    return f"{clip}: {next(filter(None, layers), 'no layer')} is the first with an output that is not finite"


def _placed(examples: Iterable[Example], device: torch.device) -> Iterator[Example]:
    for each in examples:
        yield each.to(device)
        PROCESS.moved()  # asked for the next, the step has done this one


def _seed_dropout(training: Training, step: int) -> None:
    """Dropout inside the adapter draws from torch's global generator: make it a function of the step as well.

    Ranks that share a clip draw alike, since each computes all of its text.
    """
    if training.spec.lora is not None and training.spec.lora.dropout:
        draws = stream(training.spec.seed, "adapter-dropout", step=step, rank=training.group.data_rank)
        torch.manual_seed(draws.initial_seed())
