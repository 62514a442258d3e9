"""Compilation of the blocks: norms, rotations, gates and casts become a few kernels that read and write once.

Blocks that are alike share what is compiled. The text has any length from the start, 0 and 1 too, so that captions of other
lengths compile nothing again; and so have the visual tokens, where clips have several sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mochi_trainer.model import DiT
from mochi_trainer.model.dit import Rotary

Forward = Callable[..., Any]

VARIABLE = "MOCHI_COMPILE"
"""Environment variable: torch's backend that compiles the blocks, for example `inductor`, or `off`."""

OFF = "off"
"""Its value that leaves compilation out."""

LONGEST = 256
"""Tokens of text for which kernels are chosen; without a number inductor takes thousands, or none."""

MOST_GRAPHS = 64
"""Of one function; torch gives up after 8. Two kinds of blocks, with gradients and without, are four, and a single token twice that."""


def compile_blocks(model: DiT, backend: str | Callable[..., Any], *, many_sizes: bool = False) -> None:
    """Let the blocks be compiled by torch's `backend` when they first compute, in place; names stay the same.

    With `many_sizes` what is compiled serves any number of visual tokens; without, it is made for one, and for another made
    again. A block that cannot be one graph is an error. Call after `recompute`, which is compiled too, and before sharding,
    whose hooks stay outside.
    """
    compiled: dict[Forward, Forward] = {}
    for block in model.blocks:
        forward: Any = block.forward
        plain = forward.func if isinstance(forward, partial) else type(block).forward
        if plain not in compiled:
            compiled[plain] = torch.compile(  # type: ignore[call-overload]  # torch declares not all
                plain, backend=backend, fullgraph=True, recompile_limit=MOST_GRAPHS
            )
        block.forward = partial(_of_any_length, compiled[plain], many_sizes, block)


def _of_any_length(
    compiled: Forward,
    many_sizes: bool,
    block: Any,
    x_BND: Tensor,
    y_BLE: Tensor,
    c_BD: Tensor,
    rotary: Rotary,
    key_mask_BS: Tensor | None,
) -> Any:
    """The inputs as all blocks and all lengths of text have them, so that nothing is compiled again for some."""
    if torch.is_grad_enabled():
        for each in (x_BND, y_BLE):
            if not each.requires_grad:
                each.requires_grad_()  # the first block's, under frozen weights: a two-hundredth of its work
    if not y_BLE.shape[1] or y_BLE._is_view():
        y_BLE = _Dense.apply(y_BLE)
    if many_sizes:
        x_BND = _Dense.apply(x_BND) if x_BND._is_view() else x_BND.contiguous()
        for each, dimension in ((x_BND, 1), *((angles, 0) for angles in rotary)):
            torch._dynamo.maybe_mark_dynamic(each, dimension)
    torch._dynamo.decorators.mark_unbacked(y_BLE, 1, hint_override=LONGEST)
    return compiled(block, x_BND, y_BLE, c_BD, rotary, key_mask_BS)


class _Dense(torch.autograd.Function):
    """(B, S, E) as a tensor of its own with the strides that S tokens have, at S = 0 too.

    torch calls those of nothing otherwise; and of a view, such as FSDP2 hands on, its base's are compared as well.
    """

    @staticmethod
    def forward(ctx: Any, x_BSE: Tensor) -> Tensor:  # noqa: ARG004  # torch hands it over
        length, width = x_BSE.shape[1:]
        dense = torch.empty_strided(
            x_BSE.shape, (length * width, width, 1), dtype=x_BSE.dtype, device=x_BSE.device
        )
        return dense.copy_(x_BSE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004  # as above
        (gradient,) = gradients
        return gradient
