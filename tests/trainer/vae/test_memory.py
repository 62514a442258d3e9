"""What encoding and decoding at the published size need, and that the measure can be trusted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from mochi_trainer.vae import Decoder, DecoderParams, Encoder, EncoderParams, decode_chunked, encode_chunked
from tests.trainer.memory import GB, LiveBytes, decode_peak, encode_peak, peak_bytes

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
        assert peak_bytes(model, given, model) == weights + 4 * 50 * (10 + 100 + 100)
    assert peak_bytes(layers, torch.empty(50, 10), layers) == weights + 4 * 50 * (10 + 100 + 100)


def test_memory_that_is_freed_no_longer_counts() -> None:
    with FakeTensorMode(), LiveBytes() as live:
        kept = torch.empty(100)
        gone = torch.empty(1000)
        view = gone[:10]
        del gone
        assert live.now == 4 * 1100
        del view
        assert (live.now, live.peak) == (4 * 100, 4 * 1100)
        assert kept.shape == (100,)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_tracking_agrees_with_the_allocator(part: str, chunked: bool) -> None:
    def run(fake: bool) -> int:
        if part == "encoder":
            model, given = small_encoder(), torch.zeros(1, 3, 19, 64, 64)
            function = (lambda x: encode_chunked(model, x, chunk_frames=6)) if chunked else model
        else:
            model, given = small_decoder(), torch.zeros(1, 12, 4, 8, 8)
            function = (lambda x: decode_chunked(model, x, chunk_latents=1)) if chunked else model
        if not fake:
            function(given)  # what is allocated once
            return allocated_peak(lambda: function(given))
        held = sum(each.nbytes for each in (given, *model.parameters()))
        return peak_bytes(model, given, function) - held

    with FakeTensorMode():
        tracked = run(fake=True)
    real = run(fake=False)
    assert 0.99 * tracked <= real <= SEEN[part] * tracked


@pytest.mark.parametrize("frames", [85, 163])
def test_encoding_at_the_published_size_stays_within_12_gb(frames: int) -> None:
    assert SEEN["encoder"] * encode_peak(frames, torch.bfloat16) <= 12 * GB


@pytest.mark.parametrize("frames", [85, 163])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_decoding_at_the_published_size_stays_within_24_gb(frames: int, dtype: torch.dtype) -> None:
    assert SEEN["decoder"] * decode_peak(frames, dtype) <= 24 * GB
