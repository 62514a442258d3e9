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
from mochi_trainer.parallel.sharding import own_part


def synchronise(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass sums sharded gradients over the ranks; if not, they stay whole until one that does."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)


def measures(loss: Tensor, parameters: Sequence[nn.Parameter], group: Group) -> Tensor:
    """On the device of `loss`, in float64, without waiting for it: what `settled` takes once it is on the host.

    `loss` is the mean of this rank. In order: the loss; the sum of squares of this rank's part of the sharded gradients; of
    several ranks of a sharded model every gradient that is not sharded, otherwise their sum of squares. Where no parameter
    is sharded the gradients of all ranks are averaged first, so that all ranks call together.
    """
    alike = _replicated(parameters)
    if alike and group.world > 1:
        _average(parameters, group)
    sharded, plain = _gradients(parameters)
    whole = alike or group.world == 1
    rest = [_square_sum(plain, loss)] if whole else [g.flatten().double() for g in plain]
    return torch.cat([loss.double().reshape(1), _square_sum(sharded, loss), *rest])


def settled(found: Tensor, parameters: Sequence[nn.Parameter], group: Group) -> tuple[float, float]:
    """The mean loss of all ranks, and the Euclidean norm of the gradient of all parameters on all ranks together.

    `found` is what `measures` returned, on the CPU. Gradients that FSDP2 does not average, those of parameters that every
    rank keeps whole, are averaged here. All ranks call together; NaN or infinite when any number is.
    """
    if group.world == 1:
        loss, sharded, plain = found.tolist()
        return loss, float((sharded + plain) ** 0.5)
    sums = group.summed(found)
    if _replicated(parameters):  # the same squares on every rank
        return float(sums[0]) / group.world, float((sums[2] / group.world) ** 0.5)
    squares = float(sums[1]) + _averaged(sums[2:] / group.world, _gradients(parameters)[1])
    return float(sums[0]) / group.world, float(squares**0.5)


def scale(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Multiply all gradients on this rank by `factor`."""
    for gradients in _gradients(parameters):
        if gradients:
            torch._foreach_mul_(gradients, factor)


def _replicated(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether every rank has all of them."""
    return not any(isinstance(parameter, DTensor) for parameter in parameters)


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
