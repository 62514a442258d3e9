"""Linear layers whose frozen weights may be kept in one byte a number: int8 or float8, with a scale for each row.

Only the weights are narrow. They are widened to the type of the activations where they are used, forward and backward, so
nothing else changes; the widened matrix is not kept for the backward pass, since all of them would be as large as the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The types that weights can be kept in, and the largest number of each that is used."""


class Linear(nn.Linear):
    """As torch's, and computed with a narrow weight where it has a `scale`, with one from elsewhere where it has a `fetch`."""

    scale: Tensor | None
    """(rows, 1) float32; None where the weight is as it was."""

    fetch: Callable[[], Tensor] | None = None
    """Gives the weight where it is computed with; set by `mochi_trainer.parallel.swapping.swap`."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.register_buffer("scale", None)

    def at_hand(self) -> Tensor:
        """The weight (out, in) on the device of the computation."""
        return self.weight if self.fetch is None else self.fetch()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) to (..., out), typed like `x`."""
        if self.scale is None:
            return functional.linear(x, self.at_hand(), self.bias)
        product: Tensor = _Product.apply(x, self.at_hand(), self.scale, self.bias)
        return product


class _Product(torch.autograd.Function):
    """x times a narrow weight that has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return functional.linear(x, widened(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        weight, scale = ctx.saved_tensors
        return gradient @ widened(weight, scale, gradient.dtype), None, None, None


@torch.no_grad()
def narrowed(weight: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """`weight` (rows, columns) in `kind`, and the scale (rows, 1), float32, that gives it back.

    A row's largest number becomes the largest of `kind`. Scales are numbers of bfloat16, rounded up: so they are the same in
    every type that is computed in, and none of the row is beyond the largest. Raises KeyError for another `kind`.
    """
    largest, rows = LARGEST[kind], weight.float()
    wanted = (rows.abs().amax(dim=1, keepdim=True) / largest).clamp(min=torch.finfo(torch.bfloat16).tiny)
    scale = wanted.bfloat16()
    scale = torch.where(scale.float() < wanted, scale * (1 + 2**-7), scale).float()
    scaled = (rows / scale).clamp(-largest, largest)
    return (scaled.round() if kind is torch.int8 else scaled).to(kind), scale


def widened(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What `narrowed` gave, as (rows, columns) in `dtype`."""
    return weight.to(dtype).mul_(scale.to(dtype))  # in place: of the largest matrix a second copy is 0.1 GB


def narrow(module: nn.Module, kind: torch.dtype) -> None:
    """Keep the frozen weights of all linear layers below `module` in `kind`, in place, under their names.

    Adapters stay as they are. One weight at a time, so that no more memory is needed than before.
    """
    for layer in module.modules():
        if isinstance(layer, Linear) and (weight := layer._parameters.get("weight")) is not None:
            small, layer.scale = narrowed(weight.detach(), kind)
            layer.weight = nn.Parameter(small, requires_grad=False)
