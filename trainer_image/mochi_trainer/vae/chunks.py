"""Encode and decode a clip a few frames at a time, with the result that the whole clip would give.

A causal convolution needs the last frames of its input before the chunk; they are carried from chunk to chunk. Norms see
one frame at a time. Attention over time sees a few pixels at a time, but all their frames: carrying the keys and values
of every layer would need several times the memory.

Shapes: B batch; C channels; T, H, W frames, rows, columns; P pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

from mochi_trainer.vae import layers
from mochi_trainer.vae.decoder import Decoder, UpBlock
from mochi_trainer.vae.encoder import DownBlock, Encoder
from mochi_trainer.vae.latents import TEMPORAL, Posterior, latent_shape
from mochi_trainer.vae.layers import AttentionBlock, CausalConv, ResidualBlock

CHUNK_FRAMES = 12
"""Frames per chunk that keep encoding at 480 x 848 small."""

CHUNK_LATENTS = 1
"""Latent frames per chunk that keep decoding at 480 x 848 small."""

Layer = Callable[[Tensor], Tensor]
Chunk = TypeVar("Chunk")


class Continuation:
    """Applies layers to the chunks of one clip in turn; holds what the next chunk needs of the earlier ones.

    Attention over time is left out: it needs all chunks (`attend`).
    """

    def __init__(self, *steps: Layer) -> None:
        self._steps = steps
        self._past: dict[CausalConv, Tensor] = {}
        self._first = True

    def __call__(self, chunk_BCTHW: Tensor) -> Tensor:
        """The next chunk after all layers."""
        for step in self._steps:
            chunk_BCTHW = self._through(step, chunk_BCTHW)
        self._first = False
        return chunk_BCTHW

    def _through(self, step: Layer, x_BCTHW: Tensor) -> Tensor:
        if isinstance(step, CausalConv):
            return self._convolved(step, x_BCTHW)
        if isinstance(step, ResidualBlock):
            return x_BCTHW + self._through(step.stack, x_BCTHW)
        if isinstance(step, UpBlock):
            x_BCTHW = step.expanded(self._through(step.blocks, x_BCTHW))
            return x_BCTHW[:, :, step.expansion[0] - 1 :] if self._first else x_BCTHW
        if isinstance(step, nn.Sequential):
            for part in step:
                x_BCTHW = self._through(part, x_BCTHW)
            return x_BCTHW
        return step(x_BCTHW)

    def _convolved(self, conv: CausalConv, x_BCTHW: Tensor) -> Tensor:
        """The convolution after its past, which is copies of the first frame at the start."""
        size, stride = conv.kernel_size[0], conv.stride[0]
        past = x_BCTHW[:, :, :1].expand(-1, -1, size - 1, -1, -1) if self._first else self._past[conv]
        out = conv.after(past, x_BCTHW)
        seen = torch.cat([past, x_BCTHW[:, :, max(0, x_BCTHW.shape[2] - size) :]], dim=2)
        self._past[conv] = seen[:, :, seen.shape[2] - (size - stride) :].clone()
        return out


def encode_chunked(encoder: Encoder, video_BCTHW: Tensor, *, chunk_frames: int) -> Posterior:
    """The posterior of a video (B, 3, F, H, W) as `encoder` gives it, computed `chunk_frames` frames at a time.

    The video may be on another device. Raises ValueError unless chunk_frames is a positive multiple of 6, or as `encoder`.
    """
    latent_shape(*video_BCTHW.shape[2:])
    chunks = video_chunks(video_BCTHW, chunk_frames)
    for steps, attention in sections(encoder):
        advance(chunks, Continuation(*steps))
        if attention is not None:
            attend(chunks, attention)
    return encoder.posterior(torch.cat(chunks, dim=2))


def decode_chunked(decoder: Decoder, z_BCTHW: Tensor, *, chunk_latents: int) -> Tensor:
    """The video of un-normalised latents as `decoder` gives it, computed `chunk_latents` latent frames at a time.

    Raises ValueError when chunk_latents is below 1.
    """
    decode = Continuation(*decoder.blocks, decoder.colours)
    dtype = decoder.output_proj.weight.dtype
    return torch.cat([decode(chunk.to(dtype)) for chunk in latent_chunks(z_BCTHW, chunk_latents)], dim=2)


def video_chunks(video_BCTHW: Tensor, chunk_frames: int) -> list[Tensor]:
    """The first frame, then `chunk_frames` frames at a time; raise ValueError unless that is a positive multiple of 6."""
    if chunk_frames < TEMPORAL or chunk_frames % TEMPORAL:
        raise ValueError(f"chunk_frames must be a positive multiple of {TEMPORAL}, got {chunk_frames}")
    return list(torch.split(video_BCTHW, [1, *_lengths(video_BCTHW.shape[2] - 1, chunk_frames)], dim=2))


def latent_chunks(z_BCTHW: Tensor, chunk_latents: int) -> list[Tensor]:
    """`chunk_latents` latent frames at a time; raise ValueError when that is below 1."""
    if chunk_latents < 1:
        raise ValueError(f"chunk_latents must be at least 1, got {chunk_latents}")
    return list(torch.split(z_BCTHW, chunk_latents, dim=2))


def sections(encoder: Encoder) -> Iterator[tuple[list[Layer], AttentionBlock | None]]:
    """The layers of the encoder up to each attention over time, which needs all chunks, and after the last one."""
    device = encoder.output_proj.weight.device
    steps: list[Layer] = [lambda chunk: encoder.features(chunk.to(device))]
    for layer in _flat(encoder):
        steps.append(layer)
        if isinstance(layer, ResidualBlock) and isinstance(layer.attn_block, AttentionBlock):
            yield steps, layer.attn_block
            steps = []
    yield steps, None


def advance(chunks: list[Chunk], continuation: Callable[[Chunk], Chunk]) -> None:
    """Replace each chunk in turn, so that the activations before and after need not exist at once."""
    for number, chunk in enumerate(chunks):
        chunks[number] = continuation(chunk)


def attend(chunks: list[Tensor], block: AttentionBlock) -> None:
    """Add temporal attention to the chunks (B, C, T, H, W) of a clip, in place, some pixels at a time."""
    normed = [rearrange(block.norm(chunk), "B C T H W -> B T C (H W)") for chunk in chunks]
    lengths = [chunk.shape[2] for chunk in chunks]
    for pixels in _ranges(normed[0].shape[-1], layers.PIXELS_PER_CALL):
        past_BTCP = torch.cat([part[..., pixels] for part in normed], dim=1)
        out = block.attn(rearrange(past_BTCP, "B T C P -> (B P) T C"))
        out_BCTP = rearrange(out, "(B P) T C -> B C T P", B=len(past_BTCP))
        for chunk, part in zip(chunks, out_BCTP.split(lengths, dim=2), strict=True):
            chunk.view(*chunk.shape[:3], -1)[..., pixels] += part


def _flat(encoder: Encoder) -> Iterator[nn.Module]:
    """The layers of the encoder after the first, in order."""
    for layer in list(encoder.layers)[1:]:
        yield from layer.layers if isinstance(layer, DownBlock) else (layer,)


def _lengths(total: int, size: int) -> list[int]:
    """Lengths of `size`, and the rest, that add up to `total`."""
    return [min(size, total - start) for start in range(0, total, size)]


def _ranges(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, total, size))
