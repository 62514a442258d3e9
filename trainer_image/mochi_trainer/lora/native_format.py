"""The files of the published fine-tuner, which ComfyUI reads: an adapter for each fused layer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from mochi_trainer.lora.pairs import Found, Pair, assembled, pairs
from mochi_trainer.lora.targets import PARTS, PROJECTIONS, LoraParams, Target


def export_native(
    state: Mapping[str, Tensor], params: LoraParams
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An `adapter_state` as the published fine-tuner writes it and ComfyUI reads it: tensors, and the file's metadata.

    Adapters of the MLPs have names of the same kind, which the published fine-tuner never writes: ComfyUI finds layers by
    their names.
    Query, key and value become one adapter of their fused layer with the ranks added up: the As are stacked and each B
    fills its own rows and columns, so that the effect is exactly the same. Where both streams have such adapters, that of
    lower rank is filled up with zeros: the published code has one rank for the two. Loaders read the metadata key
    `kwargs`; `rank` and `targets` are for `import_native`.
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


_KINDS = {"attn.qkv_": "qkv_proj", "attn.proj_": "out_proj"}
"""Beginnings of layers that the published fine-tuner adapts, and what its metadata calls them."""


def _kind(layer: str) -> str:
    return next((kind for start, kind in _KINDS.items() if layer.startswith(start)), "")


def _kind_of(name: str) -> str:
    """The same for the name of a matrix; nothing for an MLP's, of which the published code has none."""
    return _kind(name.split(".", 2)[2])


def _native_kwargs(exported: Mapping[str, Tensor], params: LoraParams) -> dict[str, float]:
    kwargs: dict[str, float] = {}
    for layer, kind in _KINDS.items():
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


_NATIVE = re.compile(r"blocks\.(?P<block>\d+)\.(?P<layer>\w+\.\w+)\.lora_[AB]")


def import_native(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, Tensor], LoraParams]:
    """A file of `export_native`, or of the published fine-tuner, as an `adapter_state` and what `attach` needs for it.

    A file of ours comes back as it was. In any other, query, key and value share the fused A: each gets a copy of it
    with its own rows of B, the same numbers in the same products. Adapters of lower rank are filled up with zeros to
    the highest. alpha / rank (metadata `kwargs`; 1 without it) is folded into B: exact when it is a power of two, else
    rounded once to float32. Raises ValueError for a name that is no adapter of this model, for a matrix without its
    other half, and for matrices that do not belong together.
    """
    scales, stacked = _native_scales(metadata), _stacked(metadata)
    rank = _own_rank(metadata) if stacked else 0
    found: list[Found] = []
    for name in sorted({name[:-1] for name in tensors}):
        match = _NATIVE.fullmatch(name + "A")
        if match is None or match["layer"] not in PARTS:
            raise ValueError(f"{_full(name, tensors)} is no adapter of this model")
        layer = match["layer"]
        a, b = _halves(name, tensors, PARTS[layer])
        b = b * scales.get(_kind(layer), 1.0)
        for target, own_a, own_b in _separated(layer, a, b, stacked, rank):
            found.append(Found(int(match["block"]), target, own_a, own_b))
    return assembled(found)


def _full(stem: str, tensors: Mapping[str, Tensor]) -> str:
    return next(name for name in tensors if name[:-1] == stem)


def _halves(stem: str, tensors: Mapping[str, Tensor], parts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    for matrix in "AB":
        if stem + matrix not in tensors:
            raise ValueError(f"{stem + matrix} is missing")
    a, b = tensors[stem + "A"].float(), tensors[stem + "B"].float()
    if a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a) or len(b) % len(parts):
        raise ValueError(f"{stem}A {list(a.shape)} and {stem}B {list(b.shape)} do not belong together")
    return a, b


def _native_scales(metadata: Mapping[str, str]) -> dict[str, float]:
    """alpha / rank of the fused and of the output projections."""
    try:
        kwargs = json.loads(metadata.get("kwargs", "{}"))
        return {
            kind: float(kwargs[f"{kind}_lora_alpha"]) / float(kwargs[f"{kind}_lora_rank"])
            if f"{kind}_lora_alpha" in kwargs
            else 1.0
            for kind in _KINDS.values()
        }
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"the metadata key kwargs must give rank and alpha, got {error!r}") from error


def _stacked(metadata: Mapping[str, str]) -> tuple[Target, ...]:
    """The targets of a file that stacks their adapters as `export_native` does; none when the file does not say so."""
    names = metadata.get("targets", "").split(",")
    return tuple(target for target in PROJECTIONS if target in names)


def _own_rank(metadata: Mapping[str, str]) -> int:
    """The rank of each adapter in a file that stacks them; 0 when the file does not say so."""
    text = metadata.get("rank", "0")
    if not text.isdecimal():
        raise ValueError(f"the metadata key rank must be a number, got {text!r:.40}")
    return int(text)


def _separated(
    layer: str, a: Tensor, b: Tensor, stacked: tuple[Target, ...], rank: int
) -> Iterator[tuple[Target, Tensor, Tensor]]:
    """The adapters of the parts of a fused layer: their own rows of A where they are stacked, else the whole A."""
    of_layer: dict[str, Target] = {p.part: target for target, p in PROJECTIONS.items() if p.layer == layer}
    rows = dict(zip(PARTS[layer], b.chunk(len(PARTS[layer])), strict=True))
    own = [part for part, target in of_layer.items() if target in stacked]
    if not own or rank * len(own) > len(a) or (not rank and len(a) % len(own)):
        for part, target in of_layer.items():
            yield target, a, rows[part]
        return
    rank = rank or len(a) // len(own)
    blocks = {part: slice(index * rank, (index + 1) * rank) for index, part in enumerate(own)}
    if not all(_only(rows[part], blocks.get(part)) for part in rows):
        raise ValueError(f"{layer} must have a stacked adapter for {', '.join(own)}, got a shared one")
    for part in own:
        yield of_layer[part], a[blocks[part]], rows[part][:, blocks[part]]


def _only(b: Tensor, columns: slice | None) -> bool:
    """Whether B is zero outside `columns`; taken to be so where only the shape is known."""
    rest = b.clone()
    if columns is not None:
        rest[:, columns] = 0
    return rest.is_meta or not bool(rest.any())
