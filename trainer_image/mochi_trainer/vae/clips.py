"""Encode or decode one clip: whole when it is small, else in chunks of frames.

Shapes: B batch; C channels; T, H, W frames, rows, columns.
"""

from __future__ import annotations

import math

from torch import Tensor

from mochi_trainer.vae.chunks import CHUNK_FRAMES, CHUNK_LATENTS, decode_chunked, encode_chunked
from mochi_trainer.vae.decoder import Decoder
from mochi_trainer.vae.encoder import Encoder
from mochi_trainer.vae.latents import SPATIAL, Posterior, video_frames

WHOLE_BYTES = 2**28
"""Largest activation of a clip that is computed at once; several of that size exist at a time."""


def encode_clip(encoder: Encoder, video_BCTHW: Tensor) -> Posterior:
    """The posterior of a video (B, 3, F, H, W), which may be on another device than the encoder; raises as `Encoder`."""
    weight = encoder.output_proj.weight
    pixels = video_BCTHW.shape[0] * math.prod(video_BCTHW.shape[2:])
    if pixels * encoder.params.widths[0] * weight.itemsize > WHOLE_BYTES:
        return encode_chunked(encoder, video_BCTHW, chunk_frames=CHUNK_FRAMES)
    posterior: Posterior = encoder(video_BCTHW.to(weight.device))
    return posterior


def decode_clip(decoder: Decoder, z_BCTHW: Tensor) -> Tensor:
    """The video (B, 3, 6 (T - 1) + 1, 8 H, 8 W) of un-normalised latents (B, C, T, H, W)."""
    weight = decoder.output_proj.weight
    batch, _, frames, height, width = z_BCTHW.shape
    pixels = batch * video_frames(frames) * height * width * SPATIAL**2
    if pixels * decoder.params.widths[-1] * weight.itemsize > WHOLE_BYTES:
        return decode_chunked(decoder, z_BCTHW, chunk_latents=CHUNK_LATENTS)
    video: Tensor = decoder(z_BCTHW)
    return video
