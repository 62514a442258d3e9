"""Several adapters as one: their effects, weighted, add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mochi_trainer.lora.targets import PROJECTIONS, LoraParams

_A, _B = ".lora_A.weight", ".lora_B.weight"


class Weighted(NamedTuple):
    """An `adapter_state`, its shape, and what its effect is multiplied by."""

    state: Mapping[str, Tensor]
    params: LoraParams
    weight: float = 1.0


def combined(adapters: Sequence[Weighted]) -> tuple[dict[str, Tensor], LoraParams]:
    """One adapter that does what all of them do together; its rank is the sum of theirs, alpha is folded into B.

    The As are stacked and the Bs, times weight and scale, stand side by side; where an adapter has no matrix
    there are zeros. Raises ValueError when there is none, when two do not belong to the same model, and when a weight
    makes numbers that are not finite.
    """
    if not adapters:
        raise ValueError("there must be at least one adapter, got none")
    stems = sorted({name.removesuffix(_A) for each in adapters for name in each.state if name.endswith(_A)})
    state: dict[str, Tensor] = {}
    for stem in stems:
        pairs = [_pair(each, stem) for each in adapters]
        shapes = {(a.shape[1], b.shape[0]) for a, b in pairs if a.numel()}
        if len(shapes) != 1:
            raise ValueError(f"the adapters must be of one model, but {stem} has sizes {sorted(shapes)}")
        columns, rows = shapes.pop()
        ranks = [each.params.rank for each in adapters]
        state[stem + _A] = torch.cat(
            [
                a if a.numel() else torch.zeros(rank, columns)
                for rank, (a, _) in zip(ranks, pairs, strict=True)
            ]
        )
        state[stem + _B] = torch.cat(
            [b if b.numel() else torch.zeros(rows, rank) for rank, (_, b) in zip(ranks, pairs, strict=True)],
            dim=1,
        )
    rank = sum(each.params.rank for each in adapters)
    chosen = {target for each in adapters for target in each.params.targets}
    targets = tuple(target for target in PROJECTIONS if target in chosen)
    return state, LoraParams(rank=rank, alpha=float(rank), targets=targets)


def _pair(adapter: Weighted, stem: str) -> tuple[Tensor, Tensor]:
    if stem + _A not in adapter.state:
        return torch.empty(0), torch.empty(0)
    factor = adapter.weight * adapter.params.scale
    b = factor * adapter.state[stem + _B].float()
    if not bool(torch.isfinite(b).all()):
        raise ValueError(f"{stem + _B} times {factor:.6g} has numbers that are not finite")
    return adapter.state[stem + _A].float(), b
