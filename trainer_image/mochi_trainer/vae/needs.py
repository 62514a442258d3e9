"""What encoding and decoding in chunks of frames need on their device: bytes besides weights, video and latents.

Counted from the code and compared with tracked tensors (tests/trainer/vae/test_memory.py): the frames that convolutions
carry to the next chunk, the activations of one chunk at full size, and what is held of all frames.
"""

from __future__ import annotations

from mochi_trainer.vae import layers
from mochi_trainer.vae.chunks import CHUNK_FRAMES, CHUNK_LATENTS
from mochi_trainer.vae.decoder import DecoderParams
from mochi_trainer.vae.encoder import COLOURS, EncoderParams
from mochi_trainer.vae.latents import SPATIAL, TEMPORAL

CARRIED = 4
"""Frames that the two convolutions of a residual block carry."""

ENCODED_AT_ONCE = 5.5
"""Activations of a chunk that live at a time: before, after norm, with earlier frames, with its border, after."""

DECODED_AT_ONCE = 7
"""The same for the decoder, whose chunks are shorter, so that the carried frames weigh more."""

ATTENDED_AT_ONCE = 8
"""Activations of some pixels while their attention is computed: queries, keys and values, and these with length 1."""


def encoding_bytes(params: EncoderParams, *, frames: int, pixels: int, itemsize: int) -> int:
    """For `encode_chunked` in chunks of CHUNK_FRAMES; `pixels` are those of a frame, times the batch."""
    first, second = params.widths[0], params.widths[1] / 4
    chunk = CARRIED * params.blocks[0] + ENCODED_AT_ONCE * CHUNK_FRAMES
    stem = pixels * (first * chunk + second * frames)
    attention = frames * params.widths[1] * (2 * pixels / 4 + ATTENDED_AT_ONCE * layers.PIXELS_PER_CALL)
    return round(itemsize * max(stem, attention))


def decoding_bytes(params: DecoderParams, *, frames: int, pixels: int, itemsize: int) -> int:
    """For `decode_chunked` in chunks of CHUNK_LATENTS to `frames` frames of `pixels`, times the batch."""
    widths = (params.widths[0], *params.widths)
    areas = (SPATIAL**2, SPATIAL**2, SPATIAL**2 // 4, SPATIAL**2 // 16, 1)
    carried = sum(
        CARRIED * count * width / area
        for count, width, area in zip(params.blocks, widths, areas, strict=True)
    )
    chunk = DECODED_AT_ONCE * TEMPORAL * CHUNK_LATENTS * params.widths[-1]
    return round(itemsize * pixels * (carried + chunk + COLOURS * frames))
