"""What Diffusers itself saves of the small model of `tests.trainer.loading`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLMochi, MochiTransformer3DModel

from mochi_trainer.weights.diffusers_layout import decoder_table, diffusers_layout, dit_layout, encoder_table
from tests.trainer.loading import SMALL, state


def transformer() -> MochiTransformer3DModel:
    sizes = SMALL.dit
    model = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.visual_width // sizes.heads,
        num_layers=sizes.depth,
        pooled_projection_dim=sizes.text_width,
        in_channels=12,
        text_embed_dim=sizes.text_feature_width,
        time_embed_dim=sizes.timestep_width,
        max_sequence_length=256,
    )
    model.load_state_dict(dit_layout(state("dit"), sizes.depth), strict=True)
    return model


def autoencoder() -> AutoencoderKLMochi:
    model = AutoencoderKLMochi(
        encoder_block_out_channels=SMALL.encoder.widths,
        decoder_block_out_channels=SMALL.decoder.widths[::-1],
        layers_per_block=SMALL.encoder.blocks,
    )
    halves = {"encoder": encoder_table(SMALL.encoder), "decoder": decoder_table(SMALL.decoder)}
    model.load_state_dict(
        {
            f"{half}.{name}": tensor
            for half, table in halves.items()
            for name, tensor in diffusers_layout(state(half), table).items()
        },
        strict=True,
    )
    return model


def save_diffusers(folder: Path, **options: Any) -> Path:
    """What Diffusers' own code writes."""
    transformer().save_pretrained(folder / "transformer", **options)
    autoencoder().save_pretrained(folder / "vae", **options)
    return folder
