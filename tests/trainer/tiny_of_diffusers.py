"""Diffusers' transformer with the sizes and the weights of the tiny one of the tests."""

from __future__ import annotations

import torch
from diffusers import MochiTransformer3DModel

from mochi_trainer.weights.diffusers_layout import dit_layout
from tests.trainer.numerics import TINY, tiny_dit


def diffusers_dit(dtype: torch.dtype = torch.float32) -> MochiTransformer3DModel:
    """It computes what `tiny_dit(dtype)` does."""
    model = MochiTransformer3DModel(
        num_attention_heads=TINY.heads,
        attention_head_dim=TINY.head_width,
        num_layers=TINY.depth,
        pooled_projection_dim=TINY.text_width,
        text_embed_dim=TINY.text_feature_width,
        time_embed_dim=TINY.timestep_width,
    ).to(dtype)
    # Diffusers builds query and key norms of the text stream in the last block too; so does the published model.
    model.load_state_dict(dit_layout(tiny_dit(dtype).state_dict(), TINY.depth), strict=True)
    return model.eval()
