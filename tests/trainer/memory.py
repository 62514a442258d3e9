"""Bytes of live tensors, followed through a computation on tensors with or without content.

    python -m tests.trainer.memory      the tables of docs/explanation/vae-memory.md

They are counted by `mochi_trainer.plan.live_bytes`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from mochi_trainer.plan.live_bytes import LiveBytes
from mochi_trainer.vae import (
    Decoder,
    DecoderParams,
    Encoder,
    EncoderParams,
    decode_tiled,
    encode_tiled,
    latent_shape,
)
from mochi_trainer.vae.chunks import CHUNK_FRAMES, CHUNK_LATENTS, decode_chunked, encode_chunked
from mochi_trainer.vae.clips import TILE, WHOLE_BYTES, way
from mochi_trainer.vae.needs import decoding_bytes, encoding_bytes

M = TypeVar("M", bound=nn.Module)
aten = torch.ops.aten
Size = tuple[int, int]
Way = Literal["whole", "chunks"] | Size
"""How a clip is computed; a size is that of a tile in pixels."""

ENCODER, DECODER = EncoderParams(), DecoderParams()
ENCODER_WEIGHTS, DECODER_WEIGHTS = 97_222_016, 362_526_595

GB = 10**9
SIZE = (480, 848)
FRAMES = (85, 163)
TYPES = (torch.bfloat16, torch.float32)
WAYS: tuple[Way, ...] = ("whole", "chunks", TILE)
GPUS = (8, 12, 16, 24)
CONTEXT = 0.7
"""GB that CUDA takes for itself, about."""

GPU = "cuda"
"""Tensors without content need no such device."""


class FusedAttention(TorchFunctionMode):
    """Attention as a GPU computes it, by a kernel that leaves its result only; without a GPU torch would multiply it out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class Peak(NamedTuple):
    """Bytes: the most that lived on the device and in host memory, and what went from one to the other."""

    device: int
    host: int
    moved: int


def peak_bytes(model: nn.Module, given: Tensor, function: Callable[[Tensor], object]) -> Peak:
    """The peaks while `function(given)` runs, its argument and the model's weights included."""
    with torch.no_grad(), LiveBytes() as live:
        live.add(given, *model.parameters())
        result = function(given)
    del result
    device = next(model.parameters()).device.type
    return Peak(live.peak[device], live.peak["cpu"], live.moved)


def made(function: Callable[[], M], dtype: torch.dtype, device: str) -> M:
    """What the function makes on `device` while `dtype` is the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return function()
    finally:
        torch.set_default_dtype(before)


def encode_peak(
    how: Way, frames: int, dtype: torch.dtype, size: Size = SIZE, params: EncoderParams = ENCODER
) -> Peak:
    """Peaks of encoding a video of host memory with an encoder on a GPU, the published one unless given."""
    with FakeTensorMode(), FusedAttention():
        encoder = made(lambda: Encoder(params), dtype, GPU)
        return peak_bytes(
            encoder, torch.empty(1, 3, frames, *size), lambda video: encode(how, encoder, video)
        )


def decode_peak(how: Way, frames: int, dtype: torch.dtype, size: Size = SIZE) -> Peak:
    """Peaks of decoding latents on a GPU with the published decoder."""
    with FakeTensorMode():
        decoder = made(lambda: Decoder(DECODER), dtype, GPU)
        latents = torch.empty(1, 12, *latent_shape(frames, *size), device=GPU)
        return peak_bytes(decoder, latents, lambda z: decode(how, decoder, z))


def encode(how: Way, encoder: Encoder, video: Tensor) -> object:
    if how == "whole":
        return encoder(video.to(GPU))
    if how == "chunks":
        return encode_chunked(encoder, video, chunk_frames=CHUNK_FRAMES)
    return encode_tiled(encoder, video, tile=how)


def decode(how: Way, decoder: Decoder, z: Tensor) -> object:
    if how == "whole":
        return decoder(z)
    if how == "chunks":
        return decode_chunked(decoder, z, chunk_latents=CHUNK_LATENTS)
    return decode_tiled(decoder, z, tile=how)


def clip_table() -> Iterator[str]:
    """Lines: each clip in each way."""
    yield "| clip | type | way | encode: GPU | host | moved | decode: GPU | host | moved |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for dtype in TYPES:
        for frames in FRAMES:
            for how in WAYS:
                peaks = [*encode_peak(how, frames, dtype), *decode_peak(how, frames, dtype)]
                name = how if isinstance(how, str) else f"tiles of {how[0]} x {how[1]}"
                cells = " | ".join(f"{size / GB:.1f} GB" for size in peaks)
                yield f"| {frames} x {SIZE[0]} x {SIZE[1]} | {named(dtype)} | {name} | {cells} |"


def gpu_table() -> Iterator[str]:
    """Lines: what the rule of `vae.clips` chooses on GPUs of several sizes."""
    yield "| GPU | type | " + " | ".join(f"encode {n} frames | decode {n} frames" for n in FRAMES) + " |"
    yield "|---|---|" + "---|---|" * len(FRAMES)
    for gpu in GPUS:
        for dtype in TYPES:
            cells = [cell for frames in FRAMES for cell in chosen(gpu, dtype, frames)]
            yield f"| {gpu} GB | {named(dtype)} | {' | '.join(cells)} |"


def chosen(gpu: int, dtype: torch.dtype, frames: int) -> tuple[str, str]:
    """The ways of encoding and decoding on a GPU of `gpu` GB that holds the weights only, less what CUDA takes."""
    size = {"frames": frames, "pixels": SIZE[0] * SIZE[1], "itemsize": dtype.itemsize}
    ways = []
    for need, weights in (
        (encoding_bytes(ENCODER, **size), ENCODER_WEIGHTS),
        (decoding_bytes(DECODER, **size), DECODER_WEIGHTS),
    ):
        ways.append(way(WHOLE_BYTES + 1, need, (gpu - CONTEXT) * GB - weights * dtype.itemsize))
    return ways[0], ways[1]


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    for table in (clip_table, gpu_table):
        for line in table():
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
