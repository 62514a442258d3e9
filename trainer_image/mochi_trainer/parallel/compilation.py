"""Compilation of the blocks: norms, rotations, gates and casts become a few kernels that read and write once.

Blocks that are alike share what is compiled. The text has any length from the start, 0 and 1 too, so that captions of other
lengths compile nothing again.
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
"""Environment variable: torch's backend that compiles the blocks, for example `inductor`."""

LONGEST = 256
"""Tokens of text for which kernels are chosen; without a number inductor takes thousands, or none."""


def compile_blocks(model: DiT, backend: str | Callable[..., Any]) -> None:
    """Let the blocks be compiled by torch's `backend` when they first compute, in place; names stay the same.

    A block that cannot be one graph is an error. Call after `recompute`, which is compiled too, and before sharding, whose
    hooks stay outside.
    """
    compiled: dict[Forward, Forward] = {}
    for block in model.blocks:
        forward: Any = block.forward
        plain = forward.func if isinstance(forward, partial) else type(block).forward
        if plain not in compiled:
            compiled[plain] = torch.compile(plain, backend=backend, fullgraph=True)
        block.forward = partial(_of_any_length, compiled[plain], block)


def _of_any_length(
    compiled: Forward,
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
    torch._dynamo.decorators.mark_unbacked(y_BLE, 1, hint_override=LONGEST)
    return compiled(block, x_BND, y_BLE, c_BD, rotary, key_mask_BS)


class _Dense(torch.autograd.Function):
    """(B, L, E) as a tensor of its own with the strides that L tokens have, at L = 0 too.

    torch calls those of nothing otherwise; and of a view, such as FSDP2 hands on, its base's are compared as well.
    """

    @staticmethod
    def forward(ctx: Any, y_BLE: Tensor) -> Tensor:  # noqa: ARG004  # torch hands it over
        length, width = y_BLE.shape[1:]
        dense = torch.empty_strided(
            y_BLE.shape, (length * width, width, 1), dtype=y_BLE.dtype, device=y_BLE.device
        )
        return dense.copy_(y_BLE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004  # as above
        (gradient,) = gradients
        return gradient
