"""One optimizer step: the mean gradient of this step's clips over all ranks, clipped, applied if it is finite."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mochi_trainer.parallel.gradients import measures, scale, settled, synchronise
from mochi_trainer.parallel.group import Group
from mochi_trainer.train.average import Average
from mochi_trainer.train.diagnosis import bad_gradient
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
    data_seconds: float = 0.0
    """Of these, for which this rank waited for its clips."""
    slots: tuple[float, ...] = ()
    """Loss of each clip of the global batch, in the order of the ranks and their clips."""
    by_sigma: tuple[float | None, ...] = ()
    """Mean loss of the clips in each of the bins of `mochi_trainer.sigma_bins`; None where there was none."""

    bad_gradient: str = ""
    """Of a step that is not finite: the parameter at which, counted from the output, this rank's gradients began not to be."""
    cause: str = ""
    """What is known of why it is not finite, for a person."""

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
    average: Average | None = None,
    synchronise_once: bool = False,
) -> StepRecord:
    """Train on this rank's `share` of the global batch, one clip at a time; the host waits for the device once.

    `clip` is the largest norm of the gradient; 0 switches clipping off. All ranks decide alike whether to skip, since
    loss and norm are those of all ranks together. `average` takes in the weights that a step has changed. With `synchronise_once` sharded gradients are summed over the ranks with
    the last clip only, and this rank keeps the whole of them until then: 4 bytes a parameter.
    """
    started = time.monotonic()
    parameters = trained(optimizer)
    losses = accumulated(model, examples, share=share, group=group, synchronise_once=synchronise_once)
    found = measures(losses, parameters, group).cpu()  # the one wait
    (total, *slots), norm = settled(found, parameters, group)
    mean = total / group.world
    if math.isfinite(mean) and math.isfinite(norm):
        if clip and norm > clip:
            scale(parameters, clip / norm)
        for options in optimizer.param_groups:
            options["lr"] = rate
        optimizer.step()
        if average is not None:
            average.update()
        bad = ""
    else:
        bad = bad_gradient(model)
    optimizer.zero_grad(set_to_none=True)
    return StepRecord(
        step=step,
        loss=mean,
        gradient_norm=norm,
        learning_rate=rate,
        seconds=time.monotonic() - started,
        slots=tuple(slots),
        bad_gradient=bad,
    )


def trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters that `optimizer` changes."""
    return [parameter for options in optimizer.param_groups for parameter in options["params"]]


def accumulated(
    model: nn.Module, examples: Iterable[Example], *, share: int, group: Group, synchronise_once: bool
) -> Tensor:
    """Add the gradients of `share` examples to those of the model; return their losses, float64 on the device.

    First their mean; then, summed over the ranks, the loss of each clip of the global batch: 0 for those of other ranks, and
    from ranks that share a clip each its part.
    """
    losses = []
    for place, each in enumerate(examples, 1):
        if synchronise_once:
            synchronise(model, place == share)
        loss = each.loss(model)
        torch.autograd.backward(loss / share)
        losses.append(loss.detach().double())
    found = torch.stack(losses)
    slots = found.new_zeros(share * group.data_world)
    slots[group.data_rank * share : (group.data_rank + 1) * share] = found / group.context
    return torch.cat([(found / share).sum().reshape(1), slots])
