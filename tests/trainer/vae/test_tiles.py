"""A clip in tiles gives what the whole clip gives, but for the order in which numbers are rounded."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch import Tensor, nn

from mochi_trainer.vae import (
    Decoder,
    DecoderParams,
    Encoder,
    EncoderParams,
    Posterior,
    decode_chunked,
    decode_clip,
    decode_tiled,
    encode_chunked,
    encode_clip,
    encode_tiled,
    to_tensor,
)
from mochi_trainer.vae.clips import SPARE, WHOLE_BYTES, free_bytes, way
from mochi_trainer.vae.layers import FrameNorm
from mochi_trainer.vae.moments import Moments
from mochi_trainer.vae.sheets import tiles
from mochi_trainer.video import Cut, read_clip
from mochi_trainer.weights import load_decoder, load_encoder
from tests.trainer.numerics import difference, draw, noted, seeded
from tests.trainer.video.clips import real_clip

ENCODER = EncoderParams(widths=(16, 32, 32, 64), blocks=(2, 1, 2, 1, 1), groups=8, head_width=16)
DECODER = DecoderParams(widths=(64, 32, 32, 16), blocks=(1, 1, 2, 1, 2), groups=8)
TILES = [(16, 24), (24, 8), (40, 16), (16, 200)]
"""Of frames of 24 x 40: the last tile of a row or column is smaller, as large, or the only one."""

REAL = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


@functools.cache
def models(dtype: torch.dtype) -> tuple[Encoder, Decoder]:
    return seeded(Encoder(ENCODER), dtype=dtype), seeded(Decoder(DECODER), dtype=dtype)


def video(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return draw(*shape, dtype=dtype).tanh()


def both(posterior: Posterior) -> Tensor:
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("frames", "chunk"), [(1, 6), (13, 6), (13, 18)])
@torch.inference_mode()
def test_the_posterior_is_that_of_the_whole_clip(tile: tuple[int, int], frames: int, chunk: int) -> None:
    encoder, clip = models(torch.float64)[0], video(1, 3, frames, 24, 40)
    tiled = encode_tiled(encoder, clip, tile=tile, chunk_frames=chunk)
    assert difference(both(tiled), both(encoder(clip))) <= 1e-12


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("latents", "chunk"), [(1, 1), (3, 1), (3, 2)])
@torch.inference_mode()
def test_the_video_is_that_of_the_whole_clip(tile: tuple[int, int], latents: int, chunk: int) -> None:
    decoder, z = models(torch.float64)[1], draw(1, 12, latents, 3, 5)
    assert difference(decode_tiled(decoder, z, tile=tile, chunk_latents=chunk), decoder(z)) <= 1e-12


@torch.inference_mode()
def test_in_float32_only_rounding_differs() -> None:
    encoder, decoder = models(torch.float32)
    clip, z = video(1, 3, 13, 24, 40, dtype=torch.float32), draw(1, 12, 3, 3, 5, dtype=torch.float32)
    assert difference(both(encode_tiled(encoder, clip, tile=(16, 24))), both(encoder(clip))) <= 5e-6
    assert difference(decode_tiled(decoder, z, tile=(16, 24)), decoder(z)) <= 5e-6


@torch.inference_mode()
def test_in_bfloat16_tiles_are_as_far_from_float64_as_the_whole_clip_is() -> None:
    encoder, decoder = (model.bfloat16() for model in copy.deepcopy(models(torch.float64)))
    exact_encoder, exact_decoder = (copy.deepcopy(model).double() for model in (encoder, decoder))
    clip, z = video(1, 3, 13, 24, 40, dtype=torch.float32), draw(1, 12, 3, 3, 5, dtype=torch.bfloat16)
    exact = both(exact_encoder(clip.double()))
    whole, tiled = difference(both(encoder(clip)), exact), both(encode_tiled(encoder, clip, tile=(16, 24)))
    assert difference(tiled, exact) <= 1.1 * whole
    exact = exact_decoder(z.double())
    whole = difference(decoder(z), exact)
    assert difference(decode_tiled(decoder, z, tile=(16, 24)), exact) <= 1.1 * whole


@torch.inference_mode()
def test_the_published_widths_agree() -> None:
    encoder = seeded(Encoder(EncoderParams(blocks=(1,) * 5)), dtype=torch.float32)
    decoder = seeded(Decoder(DecoderParams(blocks=(1,) * 5)), dtype=torch.float32)
    clip, z = video(1, 3, 7, 24, 32, dtype=torch.float32), draw(1, 12, 2, 3, 4, dtype=torch.float32)
    assert difference(both(encode_tiled(encoder, clip, tile=(16, 16))), both(encoder(clip))) <= 5e-6
    assert difference(decode_tiled(decoder, z, tile=(16, 16)), decoder(z)) <= 5e-6


def psnr(ours: Tensor, reference: Tensor) -> float:
    """In dB, of videos with values in [-1, 1]."""
    return noted(10 * math.log10(4 / float((ours - reference).double().square().mean())))


@pytest.mark.parametrize("name", REAL)
@torch.inference_mode()
def test_real_clips_come_back_without_a_seam(name: str) -> None:
    encoder, decoder = load_encoder("nano"), load_decoder("nano")
    clip = to_tensor(
        read_clip(real_clip(name), Cut(frames=13, least=13, fps=30, width=112, height=64)).frames
    )
    mean, tiled = encoder(clip).mean, encode_tiled(encoder, clip, tile=(32, 48)).mean
    whole = decoder(mean)
    assert psnr(decode_tiled(decoder, mean, tile=(32, 48)), whole) > 80
    assert psnr(decode_tiled(decoder, tiled, tile=(32, 48)), whole) > 80


@torch.inference_mode()
def test_a_tile_that_covers_the_frame_changes_no_bit() -> None:
    encoder, decoder = models(torch.float32)
    clip, z = video(1, 3, 13, 24, 40, dtype=torch.float32), draw(1, 12, 3, 3, 5, dtype=torch.float32)
    assert torch.equal(both(encode_tiled(encoder, clip, tile=(24, 40))), both(encoder(clip)))
    assert torch.equal(decode_tiled(decoder, z, tile=(32, 48)), decoder(z))


@torch.inference_mode()
def test_a_batch_in_tiles_is_the_whole_batch() -> None:
    encoder, decoder = models(torch.float64)
    clip, z = video(2, 3, 7, 24, 32), draw(2, 12, 2, 3, 4)
    assert difference(both(encode_tiled(encoder, clip, tile=(16, 16))), both(encoder(clip))) <= 1e-12
    assert difference(decode_tiled(decoder, z, tile=(16, 16)), decoder(z)) <= 1e-12


@torch.inference_mode()
def test_what_is_given_is_not_written_to() -> None:
    encoder, decoder = models(torch.float64)
    clip, z = video(1, 3, 7, 24, 32), draw(1, 12, 2, 3, 4)
    encode_tiled(encoder, clip, tile=(16, 16))
    decode_tiled(decoder, z, tile=(16, 16))
    assert torch.equal(clip, video(1, 3, 7, 24, 32))
    assert torch.equal(z, draw(1, 12, 2, 3, 4))


def test_tiles_and_chunks_of_no_use_are_refused() -> None:
    encoder, decoder = models(torch.float64)
    clip, z = video(1, 3, 7, 24, 32), draw(1, 12, 2, 3, 4)
    with pytest.raises(ValueError, match="rows of a tile must be a positive multiple of 8, got 12"):
        encode_tiled(encoder, clip, tile=(12, 16))
    with pytest.raises(ValueError, match="columns of a tile must be a positive multiple of 8, got 0"):
        decode_tiled(decoder, z, tile=(16, 0))
    with pytest.raises(ValueError, match="positive multiple of 6, got 8"):
        encode_tiled(encoder, clip, tile=(16, 16), chunk_frames=8)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        decode_tiled(decoder, z, tile=(16, 16), chunk_latents=0)
    with pytest.raises(ValueError, match="multiples of 8, got 24 x 36"):
        encode_tiled(encoder, video(1, 3, 7, 24, 36), tile=(16, 16))


@torch.no_grad()
def test_statistics_from_tiles_are_those_of_the_frame() -> None:
    x, norm = 5 + draw(2, 12, 3, 10, 14), seeded(FrameNorm(4, 12))
    nn.init.normal_(norm.weight)
    moments = Moments(4)
    for tile in tiles(10, 14, 4, 5):
        moments.add(x[..., tile.top : tile.bottom, tile.left : tile.right])
    assert difference(moments.normed(norm, x), norm(x)) <= 1e-12
    again = Moments.joined(moments.split([1, 2]))
    assert torch.equal(again.normed(norm, x), moments.normed(norm, x))


def test_tiles_cover_a_frame_once() -> None:
    seen = torch.zeros(10, 14)
    for tile in tiles(10, 14, 4, 5):
        seen[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert torch.equal(seen, torch.ones(10, 14))


def test_tiles_are_for_devices_with_less_memory_than_chunks_need() -> None:
    assert way(WHOLE_BYTES, 100, free=100 * SPARE) == "whole"
    assert way(WHOLE_BYTES + 1, 100, free=100 * SPARE) == "chunks"
    assert way(WHOLE_BYTES + 1, 100, free=100 * SPARE - 1) == "tiles"
    assert free_bytes(torch.device("cpu")) == math.inf


@torch.inference_mode()
def test_a_caller_can_ask_for_tiles() -> None:
    encoder, decoder = models(torch.float32)
    clip, z = video(1, 3, 7, 24, 32, dtype=torch.float32), draw(1, 12, 2, 3, 4, dtype=torch.float32)
    tiled, whole = encode_tiled(encoder, clip, tile=(16, 16)), encode_chunked(encoder, clip, chunk_frames=12)
    assert torch.equal(encode_clip(encoder, clip, tile=(16, 16)).mean, tiled.mean)
    assert torch.equal(encode_clip(encoder, clip).mean, whole.mean)
    video_tiled, video_whole = (
        decode_tiled(decoder, z, tile=(16, 16)),
        decode_chunked(decoder, z, chunk_latents=1),
    )
    assert torch.equal(decode_clip(decoder, z, tile=(16, 16)), video_tiled)
    assert torch.equal(decode_clip(decoder, z), video_whole)
    assert not torch.equal(tiled.mean, whole.mean)
    assert not torch.equal(video_tiled, video_whole)
