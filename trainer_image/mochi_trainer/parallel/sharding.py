"""FSDP2: weights, gradients and optimizer states in equal parts on all ranks, applied to the model from outside."""

from __future__ import annotations

import warnings
from itertools import pairwise

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
    averaged over ranks in float32. While a block computes, the weights of the next one are gathered.
    """
    # The last block hands its text through unchanged, and nobody reads it.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (group.world,))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    if not model.pos_frequencies.is_meta:
        model.pos_frequencies.data = model.pos_frequencies.data.to(device)
    blocks = [fully_shard(block, mesh=mesh, mp_policy=policy) for block in model.blocks]
    # Unlike FSDP2's default the root is sharded again after each forward pass: else, after one without a backward pass,
    # `model.parameters()` would give whole tensors that the optimizer does not know.
    fully_shard(
        model, mesh=mesh, mp_policy=policy, reshard_after_forward=True, ignored_params={model.pos_frequencies}
    )
    for block, following in pairwise(blocks):
        block.set_modules_to_forward_prefetch([following])
        following.set_modules_to_backward_prefetch([block])


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
