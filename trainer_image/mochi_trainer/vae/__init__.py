"""The asymmetric, causal video autoencoder of Mochi-1 and the normalisation of its latents."""

from mochi_trainer.vae.decoder import Decoder, DecoderParams
from mochi_trainer.vae.encoder import Encoder, EncoderParams
from mochi_trainer.vae.latents import (
    MOCHI_1_STATISTICS,
    LatentStatistics,
    Posterior,
    denormalise,
    latent_frames,
    latent_shape,
    normalise,
    video_frames,
)

__all__ = [
    "MOCHI_1_STATISTICS",
    "Decoder",
    "DecoderParams",
    "Encoder",
    "EncoderParams",
    "LatentStatistics",
    "Posterior",
    "denormalise",
    "latent_frames",
    "latent_shape",
    "normalise",
    "video_frames",
]
