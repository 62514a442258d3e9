"""The files of Diffusers: an adapter for each of its linear layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mochi_trainer.lora.pairs import pairs
from mochi_trainer.lora.targets import LoraParams, Projection

METADATA_KEY = "lora_adapter_metadata"
"""Where Diffusers keeps peft's configuration in a file's metadata, as JSON; `save_lora_weights` folds no alpha into B."""

_PREFIX = "transformer."


def export_diffusers(state: Mapping[str, Tensor], params: LoraParams) -> dict[str, Tensor]:
    """An `adapter_state` as `load_lora_weights` of Diffusers takes it, alpha / rank folded into B."""
    exported = {}
    for pair in pairs(state, params):
        prefix = f"{_PREFIX}transformer_blocks.{pair.block}.{pair.projection.diffusers}"
        exported[f"{prefix}.lora_A.weight"] = pair.a.contiguous()
        exported[f"{prefix}.lora_B.weight"] = in_order(pair.b, pair.projection).contiguous()
    return exported


def in_order(b: Tensor, projection: Projection) -> Tensor:
    """The rows of B as Diffusers orders them, or back again."""
    return torch.cat(b.chunk(2)[::-1]) if projection.swapped else b
