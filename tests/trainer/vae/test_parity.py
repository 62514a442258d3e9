"""The autoencoder against the one of Diffusers, with the same weights.

Diffusers drops the five surplus frames once, at the end of its decoder; the published decoder drops them after each
up-sampling block, before the next convolution pads with the first frame. The hook below moves the drop to where the
published code has it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_mochi import MochiDecoder3D, MochiEncoder3D
from torch import Tensor, nn

from mochi_trainer.vae import Decoder, DecoderParams, Encoder, EncoderParams
from mochi_trainer.weights.diffusers_layout import decoder_table, diffusers_layout, encoder_table
from tests.trainer.numerics import Float64, difference, draw, seeded

ENCODER = EncoderParams(widths=(32, 32, 64, 64), blocks=(1, 2, 1, 2, 1))
DECODER = DecoderParams(widths=(64, 64, 32, 32), blocks=(1, 2, 1, 2, 1))
BOUNDS = {torch.float64: 1e-9, torch.float32: 2e-5}


@functools.cache
def encoders(dtype: torch.dtype) -> tuple[Encoder, nn.Module]:
    ours = seeded(Encoder(ENCODER), dtype=dtype)
    theirs = MochiEncoder3D(
        in_channels=15, out_channels=12, block_out_channels=ENCODER.widths, layers_per_block=ENCODER.blocks
    )
    theirs.load_state_dict(diffusers_layout(ours.state_dict(), encoder_table(ENCODER)), strict=True)
    return ours, theirs.to(dtype).eval()


@functools.cache
def decoders(dtype: torch.dtype) -> tuple[Decoder, nn.Module]:
    ours = seeded(Decoder(DECODER), dtype=dtype)
    theirs = MochiDecoder3D(
        in_channels=12,
        out_channels=3,
        block_out_channels=DECODER.widths[::-1],
        layers_per_block=DECODER.blocks[::-1],
    )
    theirs.load_state_dict(diffusers_layout(ours.state_dict(), decoder_table(DECODER)), strict=True)
    return ours, theirs.to(dtype).eval()


@contextmanager
def dropping_as_published(theirs: nn.Module) -> Iterator[None]:
    hooks = [block.register_forward_hook(drop_surplus_frames) for block in theirs.up_blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def drop_surplus_frames(block: nn.Module, _: object, output: tuple[Tensor, object]) -> tuple[Tensor, object]:
    video, cache = output
    return video[:, :, block.temporal_expansion - 1 :], cache


@pytest.mark.parametrize("frames", [1, 13])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_mean_and_logvar_are_those_of_diffusers(dtype: torch.dtype, frames: int) -> None:
    ours, theirs = encoders(dtype)
    video = draw(2, 3, frames, 16, 24, dtype=dtype).tanh()
    with torch.no_grad(), Float64() if dtype == torch.float64 else nullcontext():
        posterior = ours(video)
        expected = theirs(video)[0]
    assert difference(torch.cat([posterior.mean, posterior.logvar], dim=1), expected) <= BOUNDS[dtype]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_video_is_that_of_diffusers(dtype: torch.dtype, frames: int) -> None:
    ours, theirs = decoders(dtype)
    z = draw(2, 12, frames, 2, 3, dtype=dtype)
    with torch.no_grad(), dropping_as_published(theirs):
        assert difference(ours(z), theirs(z)[0]) <= BOUNDS[dtype]


def test_diffusers_as_it_is_differs_most_in_the_first_frame() -> None:
    ours, theirs = decoders(torch.float64)
    z = draw(2, 12, 3, 2, 3)
    with torch.no_grad():
        video, other = ours(z), theirs(z)[0]
    other = other[:, :, -video.shape[2] :]
    by_frame = [difference(video[:, :, frame], other[:, :, frame]) for frame in range(video.shape[2])]
    assert by_frame[0] > 0.1
    assert by_frame[-1] < by_frame[0] / 5
