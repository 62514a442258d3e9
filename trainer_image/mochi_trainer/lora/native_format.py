"""The files of the published fine-tuner, which ComfyUI reads: an adapter for each fused layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from mochi_trainer.lora.pairs import Pair, pairs
from mochi_trainer.lora.targets import PARTS, LoraParams


def export_native(
    state: Mapping[str, Tensor], params: LoraParams
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An `adapter_state` as the published fine-tuner writes it and ComfyUI reads it: tensors, and the file's metadata.

    Adapters of the MLPs have names of the same kind, which the published fine-tuner never writes: ComfyUI finds layers by
    their names.
    Query, key and value become one adapter of their fused layer with the ranks added up: the As are stacked and each B
    fills its own rows and columns, so that the effect is exactly the same. Where both streams have such adapters, that of
    lower rank is filled up with zeros: the published code has one rank for the two. Loaders read the metadata key
    `kwargs`; `rank` and `targets` are for `imported`.
    """
    groups: dict[tuple[int, str], list[Pair]] = {}
    for pair in pairs(state, params):
        groups.setdefault((pair.block, pair.projection.layer), []).append(pair)
    exported = {}
    for (block, layer), members in groups.items():
        parts = PARTS[layer]
        a, b = _fused(sorted(members, key=lambda pair: parts.index(pair.projection.part)), parts)
        exported[f"blocks.{block}.{layer}.lora_A"] = a
        exported[f"blocks.{block}.{layer}.lora_B"] = b
    exported = dict(_of_one_rank(exported))
    return exported, {
        "kwargs": json.dumps(_native_kwargs(exported, params)),
        "rank": str(params.rank),
        "targets": ",".join(params.targets),
    }


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


def _of_one_rank(exported: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The matrices, those of a kind filled up with zeros to the highest rank among them, which changes no product."""
    ranks: dict[str, int] = {}
    for name, tensor in exported.items():
        if name.endswith("lora_A"):
            ranks[_kind_of(name)] = max(ranks.get(_kind_of(name), 0), len(tensor))
    for name, tensor in exported.items():
        rank = ranks[_kind_of(name)] if _kind_of(name) else tensor.shape[0 if name.endswith("lora_A") else 1]
        if name.endswith("lora_A"):
            yield name, pad(tensor, (0, 0, 0, rank - tensor.shape[0])).contiguous()
        else:
            yield name, pad(tensor, (0, rank - tensor.shape[1])).contiguous()


KINDS = {"attn.qkv_": "qkv_proj", "attn.proj_": "out_proj"}
"""Beginnings of layers that the published fine-tuner adapts, and what its metadata calls them."""


def kind_of_layer(layer: str) -> str:
    """What the metadata calls the kind of a fused layer; nothing for an MLP's, of which the published code has none."""
    return next((kind for start, kind in KINDS.items() if layer.startswith(start)), "")


def _kind_of(name: str) -> str:
    """The same for the name of a matrix."""
    return kind_of_layer(name.split(".", 2)[2])


def _native_kwargs(exported: Mapping[str, Tensor], params: LoraParams) -> dict[str, float]:
    kwargs: dict[str, float] = {}
    for layer, kind in KINDS.items():
        ranks = [
            tensor.shape[0]
            for name, tensor in exported.items()
            if f".{layer}" in name and name.endswith("lora_A")
        ]
        if ranks:
            kwargs |= {
                f"{kind}_lora_rank": max(ranks),
                f"{kind}_lora_alpha": max(ranks),
                f"{kind}_lora_dropout": params.dropout,
            }
    return kwargs
