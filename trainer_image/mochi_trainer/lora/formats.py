"""The files other tools read and write: Diffusers' separate adapters, and the fused ones of the published fine-tuner and ComfyUI.

alpha / rank is folded into B, so that loaders which ignore alpha are right too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mochi_trainer.lora.targets import PARTS, PROJECTIONS, LoraParams, Projection

_NAME = re.compile(r"blocks\.(?P<block>\d+)\.attn\.(?P<layer>\w+)\.(?P<part>\w+)\.lora_A\.weight")
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


def export_diffusers(state: Mapping[str, Tensor], params: LoraParams) -> dict[str, Tensor]:
    """An `adapter_state` as `load_lora_weights` of Diffusers takes it."""
    exported = {}
    for pair in pairs(state, params):
        prefix = f"transformer.transformer_blocks.{pair.block}.attn1.{pair.projection.diffusers}"
        exported[f"{prefix}.lora_A.weight"] = pair.a.contiguous()
        exported[f"{prefix}.lora_B.weight"] = pair.b.contiguous()
    return exported


_DIFFUSERS = re.compile(
    r"transformer\.transformer_blocks\.(?P<block>\d+)\.attn1\.(?P<layer>.+)\.lora_(?P<matrix>[AB])\.weight"
)
_BY_DIFFUSERS = {projection.diffusers: target for target, projection in PROJECTIONS.items()}


def import_diffusers(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], LoraParams]:
    """A file of `export_diffusers`, or one that Diffusers wrote, as an `adapter_state` and what `attach` needs for it.

    alpha is taken to be folded in, as Diffusers does. Raises ValueError for a name that is no adapter of this model
    and for adapters of different ranks.
    """
    state: dict[str, Tensor] = {}
    ranks, targets = set(), set()
    for name, tensor in tensors.items():
        match = _DIFFUSERS.fullmatch(name)
        if match is None or match["layer"] not in _BY_DIFFUSERS:
            raise ValueError(f"{name} is no adapter of this model")
        target = _BY_DIFFUSERS[match["layer"]]
        layer, part, _ = PROJECTIONS[target]
        state[f"blocks.{match['block']}.attn.{layer}.{part}.lora_{match['matrix']}.weight"] = tensor
        targets.add(target)
        ranks.add(tensor.shape[0 if match["matrix"] == "A" else 1])
    if len(ranks) != 1:
        raise ValueError(f"the adapters must have one rank, got {sorted(ranks)}")
    rank = ranks.pop()
    ordered = tuple(target for target in PROJECTIONS if target in targets)
    return state, LoraParams(rank=rank, alpha=float(rank), targets=ordered)


def export_native(
    state: Mapping[str, Tensor], params: LoraParams
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An `adapter_state` as the published fine-tuner writes it and ComfyUI reads it: tensors, and the file's metadata.

    Query, key and value become one adapter of their fused layer with the ranks added up: the As are stacked and each B
    fills its own rows and columns, so that the effect is exactly the same.
    """
    groups: dict[tuple[int, str], list[Pair]] = {}
    for pair in pairs(state, params):
        groups.setdefault((pair.block, pair.projection.layer), []).append(pair)
    exported = {}
    for (block, layer), members in groups.items():
        a, b = _fused(members, PARTS[layer])
        exported[f"blocks.{block}.attn.{layer}.lora_A"] = a
        exported[f"blocks.{block}.attn.{layer}.lora_B"] = b
    return exported, {"kwargs": json.dumps(_native_kwargs(exported, params))}


def _fused(members: list[Pair], parts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    rows = members[0].b.shape[0]
    a = torch.cat([pair.a for pair in members])
    b = torch.zeros(rows * len(parts), a.shape[0])
    column = 0
    for pair in members:
        row = parts.index(pair.projection.part) * rows
        rank = pair.b.shape[1]
        b[row : row + rows, column : column + rank] = pair.b
        column += rank
    return a.contiguous(), b


def _native_kwargs(exported: Mapping[str, Tensor], params: LoraParams) -> dict[str, float]:
    kwargs: dict[str, float] = {}
    for kind, layer in (("qkv_proj", ".qkv_"), ("out_proj", ".proj_")):
        ranks = [
            tensor.shape[0] for name, tensor in exported.items() if layer in name and name.endswith("lora_A")
        ]
        if ranks:
            kwargs |= {
                f"{kind}_lora_rank": max(ranks),
                f"{kind}_lora_alpha": max(ranks),
                f"{kind}_lora_dropout": params.dropout,
            }
    return kwargs
