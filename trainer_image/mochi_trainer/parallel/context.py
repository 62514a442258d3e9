"""Context parallelism (Ulysses): ranks share the visual tokens of a clip, and around attention exchange tokens for heads.

Between attentions a rank computes its own tokens, padded to the same number on all ranks, and the whole text, which is short;
in attention all tokens of its own heads, without padding. Every exchange is its own adjoint, so that the gradients on a rank are
those of the sum of the losses of all ranks that share the clip, which are one loss: their mean over all ranks is the gradient
of that loss, for weights of both streams alike.

Shapes as in `mochi_trainer.model.layers`; further C ranks that share a clip; n = ceil(N / C) tokens and a = A / C heads of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor
from torch.distributed.distributed_c10d import GroupName, _resolve_process_group  # type: ignore[attr-defined]
from torch.nn.functional import pad

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.model import DiT
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.model.dit import Heads, Rotary, joint_attention
from mochi_trainer.model.layers import rotary_angles
from mochi_trainer.parallel.group import Group


@dataclass(frozen=True, slots=True)
class Context:
    """One rank of those that share a clip."""

    index: int
    size: int
    """C."""
    name: str
    """Of their process group."""

    def exchanged(self, pieces: Tensor) -> Tensor:
        """(C, ...) of what goes to each rank to (C, ...) of what came from each."""
        found: Tensor = exchange(pieces.contiguous(), self.name)
        return found

    def tokens(self, x_BND: Tensor) -> Tensor:
        """This rank's (B, n, D) of all tokens; the last ones may be padding."""
        count = -(-x_BND.shape[1] // self.size)
        own = x_BND[:, self.index * count : (self.index + 1) * count]
        return pad(own, (0, 0, 0, count - own.shape[1])).clone()  # else all of them stay in memory

    def heads(self, x: Tensor) -> Tensor:
        """This rank's heads of all, which are the last dimension but one."""
        return x.chunk(self.size, dim=-2)[self.index]

    def gathered(self, x_BND: Tensor, count: int) -> Tensor:
        """All `count` tokens (B, N, D) of those (B, n, D) that each rank has."""
        pieces = self.exchanged(x_BND.expand(self.size, *x_BND.shape))
        return rearrange(pieces, "C B n D -> B (C n) D")[:, :count]


def share_tokens(model: DiT, group: Group) -> None:
    """Let the ranks of `group` share clips as its `context` says, in place; inputs and outputs stay whole on each of them.

    All ranks call together. Call before `recompute`. Raises InvalidInputError when heads, or ranks, cannot be dealt out evenly.
    """
    heads, size = model.params.heads, group.context
    if heads % size or group.world % size:
        raise InvalidInputError(
            f"training.contextParallel must divide the {heads} attention heads of the model and the {group.world} "
            f"processes of the training, got {size}"
        )
    ranks = range(group.world)
    own = group.among([ranks[first : first + size] for first in range(0, group.world, size)])
    context = Context(group.rank % size, size, own.group_name)
    share_heads(model, context)
    model.forward = partial(_forward, model, context)  # type: ignore[method-assign]


def share_heads(model: DiT, context: Context) -> None:
    """Let the attention of all blocks be that of one rank of `context`, in place; what is between attentions stays as it is."""
    attend = partial(_attend, context)  # one for all blocks, which are compiled as one
    for block in model.blocks:
        block.attn.attend = attend  # type: ignore[union-attr]


def alone(group: Group) -> Context:
    """One with the shapes of `group`'s, in which this rank gets what it sends: to compute blocks without waiting for another.

    All ranks call together.
    """
    own = group.among([[rank] for rank in range(group.world)])
    return Context(0, group.context, own.group_name)


def _forward(
    model: DiT,
    context: Context,
    x_BCTHW: Tensor,
    sigma_B: Tensor,
    text_BLK: Tensor,
    text_mask_BL: Tensor | None = None,
) -> Tensor:
    """As that of the model."""
    grid = model.grid(x_BCTHW)
    x_BND, y_BLE, c_BD, key_mask_BS = model.embedded(x_BCTHW, sigma_B, text_BLK, text_mask_BL)
    count, x_BND = x_BND.shape[1], context.tokens(x_BND)
    rotary = rotary_angles(context.heads(model.pos_frequencies), *grid)
    for block in model.blocks:
        x_BND, y_BLE = block(x_BND, y_BLE, c_BD, rotary, key_mask_BS)
    out_BND = context.gathered(model.final_layer(x_BND, c_BD), count)
    return model.unpatched(out_BND, grid).to(x_BCTHW.dtype)


def _attend(
    context: Context,
    visual: Heads,
    text: Heads,
    rotary: Rotary,
    key_mask_BS: Tensor | None,
    backend: Backend | None,
) -> tuple[Tensor, Tensor]:
    """As `joint_attention`, of this rank's visual tokens and all text: (B, n, D) and (B, L, D)."""
    own, count = visual[0].shape[1], rotary[0].shape[0]
    sent = rearrange(torch.stack(visual), "s B n (C a) P -> C s B n a P", C=context.size)
    q_x, k_x, v_x = rearrange(context.exchanged(sent), "C s B n a P -> s B (C n) a P")[:, :, :count]
    q_y, k_y, v_y = (context.heads(each) for each in text)
    out_x, out_y = joint_attention((q_x, k_x, v_x), (q_y, k_y, v_y), rotary, key_mask_BS, backend)
    padded = pad(out_x, (0, 0, 0, context.size * own - count))
    pieces = rearrange(padded, "B (C n) W -> C B n W", C=context.size)
    everywhere = out_y.expand(context.size, *out_y.shape)
    found = context.exchanged(torch.cat([pieces, everywhere], dim=2))
    out_x, out_y = rearrange(found, "C B m W -> B m (C W)").tensor_split([own], dim=1)
    return out_x, out_y


@torch.library.custom_op("mochi::exchange", mutates_args=())
def exchange(pieces: Tensor, name: str) -> Tensor:
    """Piece j of rank i becomes piece i of rank j, in the process group `name`; (C, ...), contiguous."""
    found = torch.empty_like(pieces)
    dist.all_to_all_single(found, pieces, group=_resolve_process_group(GroupName(name)))
    return found


@exchange.register_fake
def _shape(pieces: Tensor, _: str) -> Tensor:
    return torch.empty_like(pieces)


def _save(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:  # noqa: ARG001  # torch calls it so
    ctx.name = inputs[1]


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return exchange(grad.contiguous(), ctx.name), None


exchange.register_autograd(_gradient, setup_context=_save)
