"""An adapter added to the weights it belongs to: what is left is a model like any other, without adapters.

The published weights are never changed in place, and neither are those of a live model: `merged` returns a new tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mochi_trainer.lora.pairs import Pair, pairs
from mochi_trainer.lora.targets import PARTS, LoraParams


def changes(state: Mapping[str, Tensor], params: LoraParams) -> dict[str, list[Pair]]:
    """The adapters of an `adapter_state` by the published name of the weight that each of them changes."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs(state, params):
        found.setdefault(f"blocks.{pair.block}.{pair.projection.layer}.weight", []).append(pair)
    return found


@torch.no_grad()
def merged(name: str, weight: Tensor, adapters: Sequence[Pair]) -> Tensor:
    """`weight` (rows, columns) plus the products of `adapters`, added in float32 and rounded once to the weight's type.

    float64 is added in float64. The result is a new tensor on the weight's device. Raises ValueError, with `name`, for
    an adapter of another size.
    """
    total = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    for pair in adapters:
        parts = PARTS[pair.projection.layer]
        rows = total.chunk(len(parts))[parts.index(pair.projection.part)]
        if rows.shape != (found := torch.Size((pair.b.shape[0], pair.a.shape[1]))):
            raise ValueError(f"an adapter of {name} must be for {list(rows.shape)}, got {list(found)}")
        rows += pair.b.to(total) @ pair.a.to(total)
    return total.to(weight.dtype)


def merged_state(
    base: Mapping[str, Tensor], state: Mapping[str, Tensor], params: LoraParams
) -> dict[str, Tensor]:
    """`base` (published names) with an `adapter_state` added to its weights; tensors without an adapter are shared.

    Raises ValueError when the adapter does not belong to this base.
    """
    adapters = changes(state, params)
    if absent := [name for name in adapters if name not in base]:
        raise ValueError(f"the adapter changes {absent[0]}, which the base does not have")
    return {n: merged(n, weight, adapters[n]) if n in adapters else weight for n, weight in base.items()}
