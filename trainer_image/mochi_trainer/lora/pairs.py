"""The adapters of a model one by one, and put together again: what every file format goes through.

alpha / rank is folded into B, so that loaders which ignore alpha are right too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from mochi_trainer.lora.targets import PROJECTIONS, LoraParams, Projection, Target

_NAME = re.compile(r"blocks\.(?P<block>\d+)\.(?P<layer>\w+\.\w+)\.(?P<part>\w+)\.lora_A\.weight")
_BY_NAME = {(projection.layer, projection.part): projection for projection in PROJECTIONS.values()}


class Pair(NamedTuple):
    """The two matrices of one adapter; its effect on the weight is `b @ a`."""

    block: int
    projection: Projection
    a: Tensor
    b: Tensor


def pairs(state: Mapping[str, Tensor], params: LoraParams) -> Iterator[Pair]:
    """The adapters in an `adapter_state`, float32 on the CPU, with alpha / rank folded into B."""
    for name, a in state.items():
        if (match := _NAME.fullmatch(name)) is None:
            continue
        b = state[name.replace("lora_A", "lora_B")]
        projection = _BY_NAME[match["layer"], match["part"]]
        yield Pair(int(match["block"]), projection, a.float().cpu(), params.scale * b.float().cpu())


class Found(NamedTuple):
    """One adapter of a file; alpha / rank is folded into `b`."""

    block: int
    target: Target
    a: Tensor
    b: Tensor


def assembled(adapters: Iterable[Found]) -> tuple[dict[str, Tensor], LoraParams]:
    """The adapters of a file as an `adapter_state` and what `attach` needs for it.

    Those of lower rank are filled up with zeros to the highest, which changes no product. Raises ValueError when there
    is none, or two for one target of a block.
    """
    found = list(adapters)
    if not found:
        raise ValueError("the file must have adapters, got none")
    rank = max(len(each.a) for each in found)
    state: dict[str, Tensor] = {}
    for each in found:
        layer, part = PROJECTIONS[each.target][:2]
        name, lacking = f"blocks.{each.block}.{layer}.{part}", rank - len(each.a)
        if f"{name}.lora_A.weight" in state:
            raise ValueError(f"block {each.block} must have one adapter for {each.target}, the file has two")
        state[f"{name}.lora_A.weight"] = pad(each.a, (0, 0, 0, lacking)).contiguous()
        state[f"{name}.lora_B.weight"] = pad(each.b, (0, lacking)).contiguous()
    targets = {each.target for each in found}
    ordered = tuple(target for target in PROJECTIONS if target in targets)
    return state, LoraParams(rank=rank, alpha=float(rank), targets=ordered)
