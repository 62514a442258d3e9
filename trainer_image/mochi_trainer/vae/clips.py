"""Encode or decode one clip: whole when it is small, else in chunks of frames, on a small GPU in tiles.

Shapes: B batch; C channels; T, H, W frames, rows, columns.
"""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from torch import Tensor

from mochi_trainer.vae.chunks import CHUNK_FRAMES, CHUNK_LATENTS, decode_chunked, encode_chunked
from mochi_trainer.vae.decoder import Decoder
from mochi_trainer.vae.encoder import Encoder
from mochi_trainer.vae.latents import SPATIAL, Posterior, video_frames
from mochi_trainer.vae.needs import decoding_bytes, encoding_bytes
from mochi_trainer.vae.tiles import TileSize, decode_tiled, encode_tiled

log = logging.getLogger(__name__)

Way = Literal["whole", "chunks", "tiles"]

WHOLE_BYTES = 2**28
"""Largest activation of a clip that is computed at once; several of that size exist at a time."""

SPARE = 1.3
"""How much more than the counted bytes must be free for chunks: what kernels borrow is not counted."""

TILE: TileSize = (240, 424)
"""Rows and columns in pixels when the memory of a GPU is too small for chunks: a quarter of a frame of 480 x 848."""

GB = 10**9


def encode_clip(encoder: Encoder, video_BCTHW: Tensor, *, tile: TileSize | None = None) -> Posterior:
    """The posterior of a video (B, 3, F, H, W), on the encoder's device; keep the video in host memory.

    Computed in tiles of `tile` pixels when it is given, else as `way` says. Raises as `Encoder` and `encode_tiled`.
    """
    weight, (batch, _, frames, height, width) = encoder.output_proj.weight, video_BCTHW.shape
    pixels = batch * height * width
    largest = frames * pixels * encoder.params.widths[0] * weight.itemsize
    chunked = encoding_bytes(encoder.params, frames=frames, pixels=pixels, itemsize=weight.itemsize)
    chosen = way(largest, chunked, free_bytes(weight.device))
    if tile or chosen == "tiles":
        return encode_tiled(encoder, video_BCTHW, tile=_told(tile or TILE, "encoding", chunked))
    if chosen == "chunks":
        return encode_chunked(encoder, video_BCTHW, chunk_frames=CHUNK_FRAMES)
    posterior: Posterior = encoder(video_BCTHW.to(weight.device))
    return posterior


def decode_clip(decoder: Decoder, z_BCTHW: Tensor, *, tile: TileSize | None = None) -> Tensor:
    """The video (B, 3, 6 (T - 1) + 1, 8 H, 8 W) of un-normalised latents (B, C, T, H, W).

    Computed in tiles of `tile` pixels when it is given, else as `way` says; from tiles it is in host memory. Raises as
    `decode_tiled`.
    """
    weight, (batch, _, latents, height, width) = decoder.output_proj.weight, z_BCTHW.shape
    frames, pixels = video_frames(latents), batch * height * width * SPATIAL**2
    largest = frames * pixels * decoder.params.widths[-1] * weight.itemsize
    chunked = decoding_bytes(decoder.params, frames=frames, pixels=pixels, itemsize=weight.itemsize)
    chosen = way(largest, chunked, free_bytes(weight.device))
    if tile or chosen == "tiles":
        return decode_tiled(decoder, z_BCTHW, tile=_told(tile or TILE, "decoding", chunked))
    if chosen == "chunks":
        return decode_chunked(decoder, z_BCTHW, chunk_latents=CHUNK_LATENTS)
    video: Tensor = decoder(z_BCTHW)
    return video


def way(largest: int, chunked: int, free: float) -> Way:
    """How to compute a clip with a largest activation of `largest` bytes when chunks need `chunked` and `free` are free."""
    if SPARE * chunked > free:
        return "tiles"
    return "whole" if largest <= WHOLE_BYTES else "chunks"


def free_bytes(device: torch.device) -> float:
    """What this process can still allocate on a GPU; without limit on a CPU, where tiles would save nothing."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _told(tile: TileSize, doing: str, chunked: int) -> TileSize:
    log.info("%s in tiles of %d x %d pixels; chunks would need %.1f GB", doing, *tile, SPARE * chunked / GB)
    return tile
