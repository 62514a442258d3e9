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
from torch.nn.functional import pad

from mochi_trainer.lora.targets import PARTS, PROJECTIONS, LoraParams, Projection, Target

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
    fills its own rows and columns, so that the effect is exactly the same. Loaders read the metadata key `kwargs`;
    `rank` and `targets` are for `import_native`.
    """
    groups: dict[tuple[int, str], list[Pair]] = {}
    for pair in pairs(state, params):
        groups.setdefault((pair.block, pair.projection.layer), []).append(pair)
    exported = {}
    for (block, layer), members in groups.items():
        parts = PARTS[layer]
        a, b = _fused(sorted(members, key=lambda pair: parts.index(pair.projection.part)), parts)
        exported[f"blocks.{block}.attn.{layer}.lora_A"] = a
        exported[f"blocks.{block}.attn.{layer}.lora_B"] = b
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


_NATIVE = re.compile(r"blocks\.(?P<block>\d+)\.attn\.(?P<layer>\w+)\.lora_[AB]")


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
    found: dict[str, tuple[Tensor, Tensor]] = {}
    targets: set[Target] = set()
    for name in sorted({name[:-1] for name in tensors}):
        match = _NATIVE.fullmatch(name + "A")
        if match is None or match["layer"] not in PARTS:
            raise ValueError(f"{_full(name, tensors)} is no adapter of this model")
        layer = match["layer"]
        a, b = _halves(name, tensors, PARTS[layer])
        b = b * scales["qkv_proj" if layer.startswith("qkv_") else "out_proj"]
        for target, own_a, own_b in _separated(layer, a, b, stacked):
            found[f"blocks.{match['block']}.attn.{layer}.{PROJECTIONS[target].part}"] = own_a, own_b
            targets.add(target)
    if not found:
        raise ValueError("the file must have adapters, got none")
    rank = max(len(a) for a, _ in found.values())
    state: dict[str, Tensor] = {}
    for name, (a, b) in found.items():
        state[f"{name}.lora_A.weight"] = pad(a, (0, 0, 0, rank - len(a))).contiguous()
        state[f"{name}.lora_B.weight"] = pad(b, (0, rank - len(a))).contiguous()
    ordered = tuple(target for target in PROJECTIONS if target in targets)
    return state, LoraParams(rank=rank, alpha=float(rank), targets=ordered)


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
            for kind in ("qkv_proj", "out_proj")
        }
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"the metadata key kwargs must give rank and alpha, got {error!r}") from error


def _stacked(metadata: Mapping[str, str]) -> tuple[Target, ...]:
    """The targets of a file that stacks their adapters as `export_native` does; none when the file does not say so."""
    names = metadata.get("targets", "").split(",")
    return tuple(target for target in PROJECTIONS if target in names)


def _separated(
    layer: str, a: Tensor, b: Tensor, stacked: tuple[Target, ...]
) -> Iterator[tuple[Target, Tensor, Tensor]]:
    """The adapters of the parts of a fused layer: their own rows of A where they are stacked, else the whole A."""
    of_layer: dict[str, Target] = {p.part: target for target, p in PROJECTIONS.items() if p.layer == layer}
    rows = dict(zip(PARTS[layer], b.chunk(len(PARTS[layer])), strict=True))
    own = [part for part, target in of_layer.items() if target in stacked]
    if not own or len(a) % len(own):
        for part, target in of_layer.items():
            yield target, a, rows[part]
        return
    rank = len(a) // len(own)
    blocks = {part: slice(index * rank, (index + 1) * rank) for index, part in enumerate(own)}
    if not all(_only(rows[part], blocks.get(part)) for part in rows):
        raise ValueError(f"{layer} must have a stacked adapter for {', '.join(own)}, got a shared one")
    for part in own:
        yield of_layer[part], a[blocks[part]], rows[part][:, blocks[part]]


def _only(b: Tensor, columns: slice | None) -> bool:
    """Whether B is zero outside `columns`."""
    rest = b.clone()
    if columns is not None:
        rest[:, columns] = 0
    return not bool(rest.any())
