"""The published parameter names next to those of Diffusers, for the transformer and both halves of the autoencoder.

Diffusers keeps query, key and value apart, and stores the halves of the gated MLPs and of the final modulation the
other way round.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mochi_trainer.vae import DecoderParams, EncoderParams


class Row(NamedTuple):
    """One line of a table: published names (a pattern) and where their tensors go."""

    published: str
    diffusers: tuple[str, ...]
    """One name, or one for each equal part of the rows."""
    swapped: bool = False
    """Whether the two halves of the rows change places."""


class Segment(NamedTuple):
    """Numbers of one tensor of a file that stand together, in the same order, in a tensor of ours."""

    name: str
    """In the file."""
    first: int
    """Place of the first one, counted in numbers."""
    numbers: int


_QKV_X = tuple(rf"transformer_blocks.\1.attn1.{name}.weight" for name in ("to_q", "to_k", "to_v"))
_QKV_Y = tuple(
    rf"transformer_blocks.\1.attn1.{name}.weight" for name in ("add_q_proj", "add_k_proj", "add_v_proj")
)

DIT: tuple[Row, ...] = (
    Row(r"pos_frequencies", ("pos_frequencies",)),
    Row(r"x_embedder\.(.+)", (r"patch_embed.\1",)),
    Row(r"t_embedder\.mlp\.0\.(.+)", (r"time_embed.timestep_embedder.linear_1.\1",)),
    Row(r"t_embedder\.mlp\.2\.(.+)", (r"time_embed.timestep_embedder.linear_2.\1",)),
    Row(r"t5_y_embedder\.(.+)", (r"time_embed.pooler.\1",)),
    Row(r"t5_yproj\.(.+)", (r"time_embed.caption_proj.\1",)),
    Row(r"blocks\.(\d+)\.mod_x\.(.+)", (r"transformer_blocks.\1.norm1.linear.\2",)),
    Row(r"blocks\.(\d+)\.mod_y\.(.+)", (r"transformer_blocks.\1.norm1_context.linear.\2",)),
    Row(r"blocks\.(\d+)\.attn\.qkv_x\.weight", _QKV_X),
    Row(r"blocks\.(\d+)\.attn\.qkv_y\.weight", _QKV_Y),
    Row(r"blocks\.(\d+)\.attn\.([qk])_norm_x\.(.+)", (r"transformer_blocks.\1.attn1.norm_\2.\3",)),
    Row(r"blocks\.(\d+)\.attn\.([qk])_norm_y\.(.+)", (r"transformer_blocks.\1.attn1.norm_added_\2.\3",)),
    Row(r"blocks\.(\d+)\.attn\.proj_x\.(.+)", (r"transformer_blocks.\1.attn1.to_out.0.\2",)),
    Row(r"blocks\.(\d+)\.attn\.proj_y\.(.+)", (r"transformer_blocks.\1.attn1.to_add_out.\2",)),
    Row(r"blocks\.(\d+)\.mlp_x\.w1\.(.+)", (r"transformer_blocks.\1.ff.net.0.proj.\2",), swapped=True),
    Row(r"blocks\.(\d+)\.mlp_x\.w2\.(.+)", (r"transformer_blocks.\1.ff.net.2.\2",)),
    Row(
        r"blocks\.(\d+)\.mlp_y\.w1\.(.+)", (r"transformer_blocks.\1.ff_context.net.0.proj.\2",), swapped=True
    ),
    Row(r"blocks\.(\d+)\.mlp_y\.w2\.(.+)", (r"transformer_blocks.\1.ff_context.net.2.\2",)),
    Row(r"final_layer\.mod\.(.+)", (r"norm_out.linear.\1",), swapped=True),
    Row(r"final_layer\.linear\.(.+)", (r"proj_out.\1",)),
)
"""The transformer. `dit_pieces` and `dit_origins` rename the text modulation of the last block, which has a name of its own."""

_RESIDUAL = (
    ("stack.0", "resnets.{}.norm1.norm_layer"),
    ("stack.2", "resnets.{}.conv1.conv"),
    ("stack.3", "resnets.{}.norm2.norm_layer"),
    ("stack.5", "resnets.{}.conv2.conv"),
    ("attn_block.norm", "norms.{}.norm_layer"),
    ("attn_block.attn.out", "attentions.{}.to_out.0"),
)


def _residual(published: str, diffusers: str, index: int) -> list[Row]:
    """The lines of residual block `index` of a block of Diffusers."""
    qkv = tuple(f"{diffusers}.attentions.{index}.{name}.weight" for name in ("to_q", "to_k", "to_v"))
    rows = [Row(re.escape(f"{published}.attn_block.attn.qkv.weight"), qkv)]
    for ours, theirs in _RESIDUAL:
        rows.append(
            Row(re.escape(f"{published}.{ours}.") + "(.+)", (f"{diffusers}.{theirs.format(index)}.\\1",))
        )
    return rows


def encoder_table(params: EncoderParams) -> list[Row]:
    """The encoder; the last published stage is `block_out`, the ones with a convolution first are `down_blocks`."""
    first, *stages, last = params.blocks
    rows = [
        Row(r"layers\.0\.(.+)", (r"proj_in.\1",)),
        Row(r"output_norm\.(.+)", (r"norm_out.norm_layer.\1",)),
        Row(r"output_proj\.(.+)", (r"proj_out.\1",)),
    ]
    for index in range(first):
        rows += _residual(f"layers.{1 + index}", "block_in", index)
    for stage, count in enumerate(stages):
        layers = f"layers.{1 + first + stage}.layers"
        rows.append(Row(re.escape(f"{layers}.0.") + "(.+)", (f"down_blocks.{stage}.conv_in.conv.\\1",)))
        for index in range(count):
            rows += _residual(f"{layers}.{1 + index}", f"down_blocks.{stage}", index)
    for index in range(last):
        rows += _residual(f"layers.{1 + first + len(stages) + index}", "block_out", index)
    return rows


def decoder_table(params: DecoderParams) -> list[Row]:
    """The decoder."""
    first, *stages, last = params.blocks
    rows = [
        Row(r"blocks\.0\.0\.(.+)", (r"conv_in.\1",)),
        Row(r"output_proj\.(.+)", (r"proj_out.\1",)),
    ]
    for index in range(first):
        rows += _residual(f"blocks.0.{1 + index}", "block_in", index)
    for stage, count in enumerate(stages):
        rows.append(Row(rf"blocks\.{1 + stage}\.proj\.(.+)", (f"up_blocks.{stage}.proj.\\1",)))
        for index in range(count):
            rows += _residual(f"blocks.{1 + stage}.blocks.{index}", f"up_blocks.{stage}", index)
    for index in range(last):
        rows += _residual(f"blocks.{1 + len(stages)}.{index}", "block_out", index)
    return rows


class Pieces(NamedTuple):
    """The tensors of Diffusers that make up one published tensor: its rows in this order, halves swapped or not."""

    names: tuple[str, ...]
    swapped: bool


def pieces(name: str, table: Sequence[Row]) -> Pieces:
    """Where the published tensor `name` goes; raise KeyError for a name that the table does not have."""
    row, match = _row(name, table)
    return Pieces(tuple(match.expand(place) for place in row.diffusers), row.swapped)


def dit_pieces(name: str, depth: int) -> Pieces:
    """The same for the transformer of `depth` blocks, the last of which has a text modulation of another name."""
    last = f"transformer_blocks.{depth - 1}.norm1_context.linear."
    names, swapped = pieces(name, DIT)
    return Pieces(tuple(each.replace(last, last.replace("linear", "linear_1")) for each in names), swapped)


def taken_apart(tensor: Tensor, into: Pieces) -> dict[str, Tensor]:
    """A published tensor as the tensors of Diffusers, by name."""
    rows = _swapped(tensor) if into.swapped else tensor
    parts = rows.chunk(len(into.names))
    return {name: part.contiguous() for name, part in zip(into.names, parts, strict=True)}


def put_together(parts: Sequence[Tensor], of: Pieces) -> Tensor:
    """The published tensor whose parts these are: the inverse of `taken_apart`, bit for bit."""
    tensor = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    return _swapped(tensor) if of.swapped else tensor


def _swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def diffusers_layout(state: Mapping[str, Tensor], table: Sequence[Row]) -> dict[str, Tensor]:
    """The tensors of `state` under Diffusers' names; raise KeyError for a name that the table does not have."""
    layout: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layout |= taken_apart(tensor, pieces(name, table))
    return layout


def dit_layout(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The transformer of `depth` blocks under Diffusers' names."""
    layout: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layout |= taken_apart(tensor, dit_pieces(name, depth))
    return layout


def published_layout(state: Mapping[str, Tensor], names: Iterable[str], depth: int) -> dict[str, Tensor]:
    """The transformer of `depth` blocks under its published `names`, from `state` under Diffusers' names.

    The inverse of `dit_layout`, bit for bit. Raises KeyError with the name of a tensor that `state` lacks.
    """
    layout: dict[str, Tensor] = {}
    for name in names:
        of = dit_pieces(name, depth)
        layout[name] = put_together([state[part] for part in of.names], of)
    return layout


def origins(shapes: Mapping[str, Sequence[int]], table: Sequence[Row]) -> dict[str, list[Segment]]:
    """The way back: by published name, the segments of Diffusers' tensors that make it up, first to last.

    `shapes` are the published ones. Raises KeyError for a name that the table does not have.
    """
    return {name: _segments(pieces(name, table), math.prod(shape)) for name, shape in shapes.items()}


def dit_origins(shapes: Mapping[str, Sequence[int]], depth: int) -> dict[str, list[Segment]]:
    """As `origins`, for the transformer of `depth` blocks."""
    return {name: _segments(dit_pieces(name, depth), math.prod(shape)) for name, shape in shapes.items()}


def _segments(of: Pieces, numbers: int) -> list[Segment]:
    if of.swapped:
        (name,), half = of.names, numbers // 2
        return [Segment(name, first, half) for first in (half, 0)]
    return [Segment(name, 0, numbers // len(of.names)) for name in of.names]


def _row(name: str, table: Sequence[Row]) -> tuple[Row, re.Match[str]]:
    for row in table:
        if match := re.fullmatch(row.published, name):
            return row, match
    raise KeyError(f"{name} has no name in diffusers")
