"""What encoding and decoding at the published size need, and that the measure can be trusted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from mochi_trainer.vae import (
    Decoder,
    DecoderParams,
    Encoder,
    EncoderParams,
    decode_chunked,
    decode_tiled,
    encode_chunked,
    encode_tiled,
)
from mochi_trainer.vae.clips import TILE
from mochi_trainer.vae.needs import decoding_bytes, encoding_bytes
from tests.trainer.memory import (
    DECODER,
    DECODER_WEIGHTS,
    ENCODER,
    ENCODER_WEIGHTS,
    GB,
    GPU,
    SIZE,
    LiveBytes,
    decode_peak,
    encode_peak,
    peak_bytes,
)

SEEN = {"encoder": 1.01, "decoder": 1.3}
"""At most how often the tracked bytes the allocator gives out: products copy operands that do not lie in rows."""


def small_encoder() -> Encoder:
    return Encoder(EncoderParams(widths=(16, 32, 32, 64), blocks=(1,) * 5, groups=8, head_width=16))


def small_decoder() -> Decoder:
    return Decoder(DecoderParams(widths=(64, 32, 32, 16), blocks=(1,) * 5, groups=8))


def allocated_peak(function) -> int:
    """The most that torch's allocator gave out during the call."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        result = function()
    del result
    now = peak = 0
    for event in sorted(run.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_bytes_are_those_counted_by_hand() -> None:
    layers = nn.Sequential(nn.Linear(10, 100, bias=False), nn.ReLU(), nn.Linear(100, 1, bias=False))
    with FakeTensorMode():
        weights, given = 4 * 1100, torch.empty(50, 10)
        model = nn.Sequential(nn.Linear(10, 100, bias=False), nn.ReLU(), nn.Linear(100, 1, bias=False))
        assert peak_bytes(model, given, model).device == weights + 4 * 50 * (10 + 100 + 100)
    assert peak_bytes(layers, torch.empty(50, 10), layers).device == weights + 4 * 50 * (10 + 100 + 100)


def test_memory_that_is_freed_no_longer_counts() -> None:
    with FakeTensorMode(), LiveBytes() as live:
        kept = torch.empty(100)
        gone = torch.empty(1000)
        view = gone[:10]
        del gone
        assert live.now["cpu"] == 4 * 1100
        del view
        assert (live.now["cpu"], live.peak["cpu"]) == (4 * 100, 4 * 1100)
        assert kept.shape == (100,)


def test_devices_are_counted_apart_and_copies_between_them() -> None:
    with FakeTensorMode(), LiveBytes() as live:
        host = torch.zeros(100)
        device = host.to(GPU) + 1
        host[:50] = device[:50]
        host[:50] = host[50:]
        assert (live.now["cpu"], live.now[GPU]) == (400, 400)
        assert live.peak[GPU] == 800
        assert live.moved in {4 * 150, 4 * 200}  # a slice is written, or the storage it lies in
        del device


WAYS = ("whole", "chunks", "tiles")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_tracking_agrees_with_the_allocator(part: str, way: str) -> None:
    def run(fake: bool) -> int:
        model, given = (
            (small_encoder(), torch.zeros(1, 3, 19, 64, 64))
            if part == "encoder"
            else (small_decoder(), torch.zeros(1, 12, 4, 8, 8))
        )
        function = ENCODE[way](model) if part == "encoder" else DECODE[way](model)
        if not fake:
            function(given)  # what is allocated once
            return allocated_peak(lambda: function(given))
        held = sum(each.nbytes for each in (given, *model.parameters()))
        return peak_bytes(model, given, function).device - held

    with FakeTensorMode():
        tracked = run(fake=True)
    real = run(fake=False)
    assert 0.99 * tracked <= real <= SEEN[part] * tracked


ENCODE = {
    "whole": lambda model: model,
    "chunks": lambda model: lambda x: encode_chunked(model, x, chunk_frames=6),
    "tiles": lambda model: lambda x: encode_tiled(model, x, tile=(32, 48), chunk_frames=6),
}
DECODE = {
    "whole": lambda model: model,
    "chunks": lambda model: lambda x: decode_chunked(model, x, chunk_latents=1),
    "tiles": lambda model: lambda x: decode_tiled(model, x, tile=(32, 48)),
}


@pytest.mark.parametrize("frames", [85, 163])
def test_encoding_at_the_published_size_stays_within_12_gb(frames: int) -> None:
    peak = encode_peak("chunks", frames, torch.bfloat16).device
    assert SEEN["encoder"] * peak <= 12 * GB
    counted = encoding_bytes(ENCODER, frames=frames, pixels=SIZE[0] * SIZE[1], itemsize=2)
    assert peak <= counted + 2 * ENCODER_WEIGHTS <= 1.1 * peak


@pytest.mark.parametrize("frames", [85, 163])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_decoding_at_the_published_size_stays_within_24_gb(frames: int, dtype: torch.dtype) -> None:
    peak = decode_peak("chunks", frames, dtype).device
    assert SEEN["decoder"] * peak <= 24 * GB
    counted = decoding_bytes(DECODER, frames=frames, pixels=SIZE[0] * SIZE[1], itemsize=dtype.itemsize)
    assert peak <= counted + dtype.itemsize * DECODER_WEIGHTS <= 1.1 * peak


@pytest.mark.parametrize(("frames", "size"), [(37, (480, 848)), (163, (256, 448))])
def test_what_chunks_need_is_counted_at_other_sizes(frames: int, size: tuple[int, int]) -> None:
    given = {"frames": frames, "pixels": size[0] * size[1], "itemsize": 2}
    encoding = encode_peak("chunks", frames, torch.bfloat16, size).device - 2 * ENCODER_WEIGHTS
    assert encoding <= encoding_bytes(ENCODER, **given) <= 1.1 * encoding
    decoding = decode_peak("chunks", frames, torch.bfloat16, size).device - 2 * DECODER_WEIGHTS
    assert decoding <= decoding_bytes(DECODER, **given) <= 1.1 * decoding


def test_tiles_encode_163_frames_in_float32_on_a_gpu_of_8_gb() -> None:
    one = EncoderParams(blocks=(1,) * 5)
    peak = encode_peak(TILE, 163, torch.float32, params=one)
    with torch.device("meta"):
        weights = sum(each.numel() for each in Encoder(one).parameters())
    assert SEEN["encoder"] * (peak.device + 4 * (ENCODER_WEIGHTS - weights)) <= 6 * GB


def test_tiles_decode_any_length_in_float32_on_a_gpu_of_8_gb() -> None:
    short, longer = (decode_peak(TILE, frames, torch.float32).device for frames in (13, 19))
    assert SEEN["decoder"] * longer <= 6 * GB
    assert longer - short == 4 * 12 * 60 * 106  # one latent frame
