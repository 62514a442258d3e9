"""One optimizer step: the mean gradient of this step's clips over all ranks, clipped, applied if it is finite."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.sharding import average_replicated, gradient_norm
from mochi_trainer.train.draws import Example


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """What one step tells."""

    step: int
    """Number of the step, from 1."""
    loss: float
    """Mean over the global batch; may be NaN or infinite."""
    gradient_norm: float
    """Before clipping; may be NaN or infinite."""
    learning_rate: float
    seconds: float
    """Duration of the step, with its data."""

    @property
    def finite(self) -> bool:
        """Whether the weights were changed: a step with a loss or gradient that is not finite is skipped."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


def optimizer_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Iterable[Example],
    *,
    step: int,
    share: int,
    rate: float,
    clip: float,
    group: Group,
) -> StepRecord:
    """Train on this rank's `share` of the global batch, one clip at a time.

    `clip` is the largest norm of the gradient; 0 switches clipping off. All ranks decide alike whether to skip, since
    loss and norm are those of all ranks together.
    """
    started = time.monotonic()
    parameters = [parameter for options in optimizer.param_groups for parameter in options["params"]]
    own = 0.0
    for each in examples:
        loss = each.loss(model)
        torch.autograd.backward(loss / share)
        own += float(loss.detach()) / share
    average_replicated(model, group)
    mean = group.total([own])[0] / group.world
    norm = gradient_norm(parameters, group)
    if math.isfinite(mean) and math.isfinite(norm):
        if clip and norm > clip:
            _scale_gradients(parameters, clip / norm)
        for options in optimizer.param_groups:
            options["lr"] = rate
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepRecord(
        step=step, loss=mean, gradient_norm=norm, learning_rate=rate, seconds=time.monotonic() - started
    )


def _scale_gradients(parameters: list[nn.Parameter], factor: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
