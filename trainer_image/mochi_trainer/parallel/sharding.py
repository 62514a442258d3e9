"""FSDP2: weights, gradients and optimizer states in equal parts on all ranks, applied to the model from outside."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mochi_trainer.model import DiT
from mochi_trainer.parallel.group import Group

REPLICATED = "pos_frequencies"
"""The one parameter that every rank keeps whole: it must be computed with in float32, never in the compute type."""


def shard(model: DiT, group: Group, *, device: torch.device, compute: torch.dtype) -> None:
    """Shard in place: one group for each block, one for the rest. Call before the optimizer exists.

    A model on the meta device stays there: `model.to_empty` then makes room for this rank's rows only.

    The sharded weights keep their type (float32 master weights) and are computed with in `compute`; gradients are
    averaged over ranks in float32.
    """
    # The last block hands its text through unchanged, and nobody reads it.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (group.world,))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    if not model.pos_frequencies.is_meta:
        model.pos_frequencies.data = model.pos_frequencies.data.to(device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # Unlike FSDP2's default the root is sharded again after each forward pass: else, after one without a backward pass,
    # `model.parameters()` would give whole tensors that the optimizer does not know.
    fully_shard(
        model, mesh=mesh, mp_policy=policy, reshard_after_forward=True, ignored_params={model.pos_frequencies}
    )


def average_replicated(model: nn.Module, group: Group) -> None:
    """Average over ranks the gradients that FSDP2 does not: those of parameters that every rank keeps whole."""
    for parameter in model.parameters():
        gradient = parameter.grad
        if gradient is not None and not isinstance(gradient, DTensor) and group.world > 1:
            mean = torch.tensor(group.total(gradient.flatten().tolist()), dtype=torch.float64) / group.world
            gradient.copy_(mean.view(gradient.shape))


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this rank: all of it when it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all ranks, which must all call this; on the device of its parts."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def rows_of(length: int, rank: int, world: int) -> range:
    """The rows of a tensor of `length` rows that `rank` of `world` holds: FSDP2 cuts like `torch.chunk`."""
    size = -(-length // world)
    return range(min(rank * size, length), min((rank + 1) * size, length))


def own_rows(model: nn.Module, group: Group) -> dict[str, tuple[Tensor, int]]:
    """By name, the rows of each parameter that lie on this rank, sharing its memory, and the number of the first one."""
    return {
        name: (own_part(parameter.detach()), rows_of(len(parameter), group.rank, group.world).start)
        if isinstance(parameter, DTensor)
        else (parameter.detach(), 0)
        for name, parameter in model.named_parameters()
    }


def gradient_norm(parameters: list[nn.Parameter], group: Group) -> float:
    """The Euclidean norm of the gradient of all parameters on all ranks together; NaN or infinite when any entry is."""
    sharded = [own_part(p.grad) for p in parameters if isinstance(p.grad, DTensor)]
    plain = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    total = group.total([_square_sum(sharded)])[0] + _square_sum(plain)
    return float(total**0.5)


def _square_sum(gradients: list[Tensor]) -> float:
    if not gradients:
        return 0.0
    norms = torch._foreach_norm(gradients)
    return float(torch.stack([norm.double() for norm in norms]).square().sum())
