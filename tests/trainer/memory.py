"""Bytes of live tensors, followed through a computation on tensors with or without content.

    python -m tests.trainer.memory      the table of docs/explanation/vae-memory.md

A storage counts from the operation that returns it until Python frees it. Memory that a kernel takes and gives back inside
one operation, such as a convolution's workspace, is not seen.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mochi_trainer.vae import Decoder, DecoderParams, Encoder, EncoderParams, latent_shape
from mochi_trainer.vae.chunks import CHUNK_FRAMES, CHUNK_LATENTS, decode_chunked, encode_chunked

M = TypeVar("M", bound=nn.Module)
GB = 10**9
HEIGHT, WIDTH = 480, 848


class LiveBytes(TorchDispatchMode):
    """Inside it, `now` and `peak` are the bytes of the storages that operations returned, plus those given to `add`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, object] = {}

    def add(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                size = storage.nbytes()
                self._known[storage._cdata] = weakref.finalize(storage, self._freed, storage._cdata, size)
                self.now += size
                self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.add(*(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
        return out


def peak_bytes(model: nn.Module, given: Tensor, function: Callable[[Tensor], object]) -> int:
    """The peak while `function(given)` runs, its argument and the model's weights included."""
    with torch.no_grad(), LiveBytes() as live:
        live.add(given, *model.parameters())
        result = function(given)
    del result
    return live.peak


def made(function: Callable[[], M], dtype: torch.dtype) -> M:
    """What the function makes while `dtype` is the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return function()
    finally:
        torch.set_default_dtype(before)


def encode_peak(frames: int, dtype: torch.dtype, chunk: int | None = CHUNK_FRAMES) -> int:
    """Peak bytes of encoding a video of `frames` x 480 x 848 with the published encoder; whole when chunk is None."""
    with FakeTensorMode():
        encoder = made(lambda: Encoder(EncoderParams()), dtype)
        video = torch.empty(1, 3, frames, HEIGHT, WIDTH)
        encode = encoder if chunk is None else lambda x: encode_chunked(encoder, x, chunk_frames=chunk)
        return peak_bytes(encoder, video, encode)


def decode_peak(frames: int, dtype: torch.dtype, chunk: int | None = CHUNK_LATENTS) -> int:
    """Peak bytes of decoding to a video of `frames` x 480 x 848 with the published decoder; whole when chunk is None."""
    with FakeTensorMode():
        decoder = made(lambda: Decoder(DecoderParams()), dtype)
        z = torch.empty(1, 12, *latent_shape(frames, HEIGHT, WIDTH))
        decode = decoder if chunk is None else lambda x: decode_chunked(decoder, x, chunk_latents=chunk)
        return peak_bytes(decoder, z, decode)


def main() -> None:
    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    write(
        "| clip | type | encode, whole | encode, chunks | decode, whole | decode, chunks |\n|---|---|---|---|---|---|\n"
    )
    for frames in (85, 163):
        for dtype in (torch.bfloat16, torch.float32):
            sizes = [
                peak(frames, dtype, **kwargs) / GB
                for peak in (encode_peak, decode_peak)
                for kwargs in ({"chunk": None}, {})
            ]
            cells = " | ".join(f"{size:.1f} GB" for size in sizes)
            write(f"| {frames} x {HEIGHT} x {WIDTH} | {str(dtype).removeprefix('torch.')} | {cells} |\n")


if __name__ == "__main__":
    main()
