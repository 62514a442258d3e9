"""Bytes of live tensors, followed through a computation on tensors with or without content.

    python -m tests.trainer.memory      the table of docs/explanation/vae-memory.md

A storage counts from the operation that returns it until Python frees it. Memory that a kernel takes and gives back inside
one operation, such as a convolution's workspace, is not seen.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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

M = TypeVar("M", bound=nn.Module)
Size = tuple[int, int]
Way = Literal["whole", "chunks"] | Size
"""How a clip is computed; a size is that of a tile in pixels."""

GB = 10**9
SIZE = (480, 848)
GPU = "cuda"
"""Tensors without content need no such device."""


class Peak(NamedTuple):
    """Bytes: the most that lived on the device and in host memory, and what went from one to the other."""

    device: int
    host: int
    moved: int


class LiveBytes(TorchDispatchMode):
    """Inside it, `now` and `peak` are, by type of device, the bytes of the storages that operations returned, plus those
    given to `add`; `moved` are the bytes copied from one type of device to another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.moved = 0
        self._known: dict[int, object] = {}

    def add(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            storage, device = tensor.untyped_storage(), tensor.device.type
            if storage._cdata not in self._known:
                size = storage.nbytes()
                freed = weakref.finalize(storage, self._freed, storage._cdata, device, size)
                self._known[storage._cdata] = freed
                self.now[device] += size
                self.peak[device] = max(self.peak[device], self.now[device])

    def _freed(self, key: int, device: str, size: int) -> None:
        del self._known[key]
        self.now[device] -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        returned = tensors_in(out)
        self.add(*returned)
        devices = {tensor.device.type for tensor in (*tensors_in(args), *returned) if tensor.dim()}
        if len(devices) > 1:
            self.moved += returned[0].nbytes
        return out


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


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


def encode_peak(way: Way, frames: int, dtype: torch.dtype, size: Size = SIZE) -> Peak:
    """Peaks of encoding a video of host memory with the published encoder on a GPU."""
    with FakeTensorMode():
        encoder = made(lambda: Encoder(EncoderParams()), dtype, GPU)
        return peak_bytes(
            encoder, torch.empty(1, 3, frames, *size), lambda video: encode(way, encoder, video)
        )


def decode_peak(way: Way, frames: int, dtype: torch.dtype, size: Size = SIZE) -> Peak:
    """Peaks of decoding latents on a GPU with the published decoder."""
    with FakeTensorMode():
        decoder = made(lambda: Decoder(DecoderParams()), dtype, GPU)
        latents = torch.empty(1, 12, *latent_shape(frames, *size), device=GPU)
        return peak_bytes(decoder, latents, lambda z: decode(way, decoder, z))


def encode(way: Way, encoder: Encoder, video: Tensor) -> object:
    if way == "whole":
        return encoder(video.to(GPU))
    if way == "chunks":
        return encode_chunked(encoder, video, chunk_frames=CHUNK_FRAMES)
    return encode_tiled(encoder, video, tile=way)


def decode(way: Way, decoder: Decoder, z: Tensor) -> object:
    if way == "whole":
        return decoder(z)
    if way == "chunks":
        return decode_chunked(decoder, z, chunk_latents=CHUNK_LATENTS)
    return decode_tiled(decoder, z, tile=way)


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
