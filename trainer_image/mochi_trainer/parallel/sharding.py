"""FSDP2: weights, gradients and optimizer states in equal parts on all ranks, applied to the model from outside.

With several copies (hybrid sharding) the ranks that follow one another, such as those of one pod, share one copy: weights are
gathered among them, and of the gradients each rank's part alone is summed with those of the other copies.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mochi_trainer.model import DiT
from mochi_trainer.parallel.group import Group

VARIABLE = "MOCHI_WEIGHT_COPIES"
"""Environment variable: how many copies of the weights all ranks of mode full hold together."""

REPLICATED = "pos_frequencies"
"""The one parameter that every rank keeps whole: it must be computed with in float32, never in the compute type."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which rows of a sharded tensor a rank holds."""

    index: int = 0
    of: int = 1
    """Ranks that hold one copy together."""
    copy: int = 0
    copies: int = 1


def shard(model: DiT, group: Group, *, device: torch.device, compute: torch.dtype, copies: int = 1) -> None:
    """Shard in place: one group for each block, one for the rest. Call before the optimizer exists.

    The ranks hold `copies` of the model, of which their number is a multiple. A model on the meta device stays there:
    `model.to_empty` then makes room for this rank's rows only.

    The sharded weights keep their type (float32 master weights) and are computed with in `compute`; gradients are
    averaged over ranks in float32. While a block computes, the weights of the next one are gathered.
    """
    # The last block hands its text through unchanged, and nobody reads it.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = _mesh(group, device, copies)
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


def _mesh(group: Group, device: torch.device, copies: int) -> DeviceMesh:
    if copies == 1:
        return init_device_mesh(device.type, (group.world,))
    ranks = torch.arange(group.world).view(copies, group.world // copies)
    # Made here, since the mesh's own would wait for as long as torch likes.
    groups = [group.among(sets) for sets in (ranks.T.tolist(), ranks.tolist())]
    return DeviceMesh.from_group(groups, device.type, mesh=ranks, mesh_dim_names=("copies", "parts"))


def part_of(tensor: DTensor) -> Part:
    """This rank's."""
    mesh = tensor.device_mesh
    last = mesh.ndim - 1
    part = Part(mesh.get_local_rank(last), mesh.size(last))
    return replace(part, copy=mesh.get_local_rank(0), copies=mesh.size(0)) if last else part


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this rank: all of it when it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all ranks, which must all call this; on the device of its parts."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def rows_of(length: int, index: int, of: int) -> range:
    """The rows of a tensor of `length` rows in part `index` `of` so many: FSDP2 cuts like `torch.chunk`."""
    size = -(-length // of)
    return range(min(index * size, length), min((index + 1) * size, length))


def held_rows(tensor: DTensor) -> range:
    """The rows of the whole tensor that lie on this rank."""
    part = part_of(tensor)
    return rows_of(len(tensor), part.index, part.of)


def own_rows(model: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """By name, the rows of each parameter that lie on this rank, sharing its memory, and the number of the first one."""
    return {
        name: (own_part(parameter.detach()), held_rows(parameter).start)
        if isinstance(parameter, DTensor)
        else (parameter.detach(), 0)
        for name, parameter in model.named_parameters()
    }
