"""What a folder of Diffusers' transformer consists of: its configuration, and which tensor lies in which file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mochi_trainer.model import DiTParams

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD_BYTES = 10_000_000_000
"""Most bytes of one file, as `save_pretrained` of Diffusers has it ("10GB")."""

_POOLING_HEADS = 8
"""Diffusers has no setting for them."""
_PATCH = 2


def config(params: DiTParams) -> dict[str, Any]:
    """The `config.json` from which `MochiTransformer3DModel.from_pretrained` builds the transformer of these sizes.

    Raises ValueError when Diffusers cannot build it: some sizes follow from others there.
    """
    fixed = {
        "patch": (params.patch, _PATCH),
        "pooling_heads": (params.pooling_heads, _POOLING_HEADS),
        "the hidden width of the visual MLP": (params.mlp_width(params.visual_width), _hidden(params.visual_width)),
        "the hidden width of the text MLP": (params.mlp_width(params.text_width), _hidden(params.text_width)),
    }  # fmt: skip
    for name, (found, needed) in fixed.items():
        if found != needed:
            raise ValueError(f"{name} must be {needed} for diffusers, got {found}")
    return {
        "_class_name": "MochiTransformer3DModel",
        "activation_fn": "swiglu",
        "attention_head_dim": params.head_width,
        "in_channels": params.latent_channels,
        "max_sequence_length": params.text_tokens,
        "num_attention_heads": params.heads,
        "num_layers": params.depth,
        "out_channels": params.latent_channels,
        "patch_size": params.patch,
        "pooled_projection_dim": params.text_width,
        "qk_norm": "rms_norm",
        "text_embed_dim": params.text_feature_width,
        "time_embed_dim": params.timestep_width,
    }


def _hidden(width: int) -> int:
    return 4 * width * 2 // 3


class Shard(NamedTuple):
    """One file of weights."""

    file: str
    names: tuple[str, ...]


def shards(sizes: Mapping[str, int], limit: int = SHARD_BYTES) -> list[Shard]:
    """The files for tensors of these sizes (bytes), in order: as many as fit into `limit`, a larger tensor alone."""
    groups = list(_groups(sizes, limit))
    if len(groups) == 1:
        return [Shard(WEIGHTS, groups[0])]
    stem, _, ending = WEIGHTS.rpartition(".")
    return [
        Shard(f"{stem}-{number:05d}-of-{len(groups):05d}.{ending}", names)
        for number, names in enumerate(groups, 1)
    ]


def _groups(sizes: Mapping[str, int], limit: int) -> Iterator[tuple[str, ...]]:
    names: list[str] = []
    filled = 0
    for name, size in sizes.items():
        if names and filled + size > limit:
            yield tuple(names)
            names, filled = [], 0
        names.append(name)
        filled += size
    yield tuple(names)


def index(sizes: Mapping[str, int], files: list[Shard]) -> str:
    """The `INDEX` that tells in which of several files each tensor lies."""
    where = {name: shard.file for shard in files for name in shard.names}
    document = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(where.items()))}
    return json.dumps(document, indent=2) + "\n"
