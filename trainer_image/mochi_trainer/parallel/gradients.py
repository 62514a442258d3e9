"""What a step has to know of its gradients: one tensor on the device, brought to the host once, then summed over ranks.

Where the model is sharded FSDP2 averages the gradients in the backward pass. Where every rank has all of it, adapters over
several GPUs, they are averaged here, in one piece and by the network of the GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.sharding import own_part, part_of

VARIABLE = "MOCHI_SYNCHRONISE_ONCE"
"""Environment variable: 1 sums the gradients of mode full over the ranks with the last of several clips only, 0 with each."""


def synchronise(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass sums sharded gradients over the ranks; if not, they stay whole until one that does."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)


def measures(told: Tensor, parameters: Sequence[nn.Parameter], group: Group) -> Tensor:
    """On the device of `told`, in float64, without waiting for it: what `settled` takes once it is on the host.

    `told` (n,) is what is to be summed over the ranks besides, such as losses. In order: `told`; the sum of squares of this
    rank's part of the sharded gradients, shared with those that hold a copy of it; of several ranks of a sharded model every gradient that is not sharded, otherwise
    their sum of squares. Where no parameter is sharded the gradients of all ranks are averaged first, so that all ranks call
    together.
    """
    alike = _replicated(parameters)
    if alike and group.world > 1:
        _average(parameters, group)
    sharded, plain = _gradients(parameters)
    whole = alike or group.world == 1
    rest = [_square_sum(plain, told)] if whole else [g.flatten().double() for g in plain]
    return torch.cat([told.double().reshape(-1), _square_sum(sharded, told) / _copies(parameters), *rest])


def settled(found: Tensor, parameters: Sequence[nn.Parameter], group: Group) -> tuple[list[float], float]:
    """What was told, summed over all ranks, and the Euclidean norm of the gradient of all parameters on all ranks together.

    `found` is what `measures` returned, on the CPU. Gradients that FSDP2 does not average, those of parameters that every
    rank keeps whole, are averaged here. All ranks call together; NaN or infinite when any number is.
    """
    if group.world == 1:
        *told, sharded, plain = found.tolist()
        return told, float((sharded + plain) ** 0.5)
    sums = group.summed(found)
    if _replicated(parameters):  # the same squares on every rank
        *told, _, squares = sums.tolist()
        return told, float((squares / group.world) ** 0.5)
    gradients = _gradients(parameters)[1]
    count = sums.numel() - 1 - sum(gradient.numel() for gradient in gradients)
    squares = float(sums[count]) + _averaged(sums[count + 1 :] / group.world, gradients)
    return sums[:count].tolist(), float(squares**0.5)


def scale(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Multiply all gradients on this rank by `factor`."""
    for gradients in _gradients(parameters):
        if gradients:
            torch._foreach_mul_(gradients, factor)


def _replicated(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether every rank has all of them."""
    return not any(isinstance(parameter, DTensor) for parameter in parameters)


def _copies(parameters: Sequence[nn.Parameter]) -> int:
    """Ranks that hold the same part of a sharded gradient."""
    return next((part_of(p).copies for p in parameters if isinstance(p, DTensor)), 1)


def _average(parameters: Sequence[nn.Parameter], group: Group) -> None:
    """Give all gradients their means over the ranks; one that a rank has not counts as zero there."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    means = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(means)
    means /= group.world
    parts = torch.split(means, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(of) for part, of in zip(parts, gradients, strict=True)])


def _averaged(means: Tensor, gradients: Sequence[Tensor]) -> float:
    """Give the gradients their means, which stand one after the other on the CPU; return the sum of squares."""
    if not gradients:
        return 0.0
    parts = torch.split(means, [gradient.numel() for gradient in gradients])
    averaged = [
        part.view(gradient.shape).to(gradient.dtype) for part, gradient in zip(parts, gradients, strict=True)
    ]
    for gradient, mean in zip(gradients, averaged, strict=True):
        gradient.copy_(mean, non_blocking=True)
    return float(_square_sum(averaged, means))


def _gradients(parameters: Sequence[nn.Parameter]) -> tuple[list[Tensor], list[Tensor]]:
    """This rank's part of the sharded ones, and those that are not sharded."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return (
        [own_part(gradient) for gradient in found if isinstance(gradient, DTensor)],
        [gradient for gradient in found if not isinstance(gradient, DTensor)],
    )


def _square_sum(gradients: list[Tensor], like: Tensor) -> Tensor:
    """(1,), float64, on the device of `like`."""
    if not gradients:
        return torch.zeros(1, dtype=torch.float64, device=like.device)
    return torch.stack(torch._foreach_norm(gradients)).double().square().sum().reshape(1)
