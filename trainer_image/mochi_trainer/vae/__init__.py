"""The asymmetric, causal video autoencoder of Mochi-1 and the normalisation of its latents."""

from mochi_trainer.vae.chunks import decode_chunked, encode_chunked
from mochi_trainer.vae.clips import decode_clip, encode_clip
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
from mochi_trainer.vae.pixels import to_frames, to_tensor
from mochi_trainer.vae.tiles import decode_tiled, encode_tiled

__all__ = [
    "MOCHI_1_STATISTICS",
    "Decoder",
    "DecoderParams",
    "Encoder",
    "EncoderParams",
    "LatentStatistics",
    "Posterior",
    "decode_chunked",
    "decode_clip",
    "decode_tiled",
    "denormalise",
    "encode_chunked",
    "encode_clip",
    "encode_tiled",
    "latent_frames",
    "latent_shape",
    "normalise",
    "to_frames",
    "to_tensor",
    "video_frames",
]
