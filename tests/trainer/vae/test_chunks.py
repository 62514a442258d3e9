"""A clip in chunks of frames gives, bit for bit, what the whole clip gives."""

from __future__ import annotations

import functools

import pytest
import torch

from mochi_trainer.vae import Decoder, DecoderParams, Encoder, EncoderParams, decode_chunked, encode_chunked
from mochi_trainer.weights import load_decoder, load_encoder
from tests.trainer.numerics import draw, seeded


@functools.cache
def models(name: str) -> tuple[Encoder, Decoder]:
    """`nano` as packaged; `deep` has blocks everywhere; `wide` has the published widths."""
    if name == "nano":
        return load_encoder("nano"), load_decoder("nano")
    encoder, decoder = {
        "deep": (
            EncoderParams(widths=(16, 32, 32, 64), blocks=(2, 1, 2, 2, 1), groups=8, head_width=16),
            DecoderParams(widths=(64, 32, 32, 16), blocks=(2, 1, 2, 2, 1), groups=8),
        ),
        "wide": (EncoderParams(blocks=(1,) * 5), DecoderParams(blocks=(1,) * 5)),
    }[name]
    return seeded(Encoder(encoder), dtype=torch.float32), seeded(Decoder(decoder), dtype=torch.float32)


CLIPS = [
    ("nano", 37, 64, 96),
    ("nano", 19, 40, 56),
    ("deep", 25, 40, 56),
    ("deep", 7, 24, 32),
    ("wide", 13, 24, 32),
]


@pytest.mark.parametrize(("name", "frames", "height", "width"), CLIPS)
@pytest.mark.parametrize("chunk_frames", [6, 18])
@torch.inference_mode()
def test_encoding_in_chunks_changes_no_bit(
    name: str, frames: int, height: int, width: int, chunk_frames: int
) -> None:
    encoder, video = models(name)[0], draw(1, 3, frames, height, width, dtype=torch.float32).tanh()
    whole, chunked = encoder(video), encode_chunked(encoder, video, chunk_frames=chunk_frames)
    assert torch.equal(chunked.mean, whole.mean)
    assert torch.equal(chunked.logvar, whole.logvar)


@pytest.mark.parametrize(("name", "frames", "height", "width"), CLIPS)
@pytest.mark.parametrize("chunk_latents", [1, 2])
@torch.inference_mode()
def test_decoding_in_chunks_changes_no_bit(
    name: str, frames: int, height: int, width: int, chunk_latents: int
) -> None:
    decoder = models(name)[1]
    z = draw(1, 12, (frames - 1) // 6 + 1, height // 8, width // 8, dtype=torch.float32)
    assert torch.equal(decode_chunked(decoder, z, chunk_latents=chunk_latents), decoder(z))


@torch.inference_mode()
def test_a_batch_in_chunks_is_the_whole_batch() -> None:
    encoder, decoder = models("deep")
    video = draw(2, 3, 13, 24, 32, dtype=torch.float32).tanh()
    whole, chunked = encoder(video), encode_chunked(encoder, video, chunk_frames=6)
    torch.testing.assert_close(chunked.mean, whole.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        decode_chunked(decoder, whole.mean, chunk_latents=1), decoder(whole.mean), rtol=0, atol=1e-5
    )


@torch.inference_mode()
def test_the_state_of_one_clip_does_not_reach_the_next() -> None:
    encoder, _ = models("deep")
    first, second = (draw(1, 3, 13, 24, 32, seed=seed, dtype=torch.float32).tanh() for seed in (1, 2))
    alone = encode_chunked(encoder, second, chunk_frames=6)
    encode_chunked(encoder, first, chunk_frames=6)
    assert torch.equal(encode_chunked(encoder, second, chunk_frames=6).mean, alone.mean)


def test_chunks_that_do_not_fit_the_latents_are_refused() -> None:
    encoder, decoder = models("deep")
    with pytest.raises(ValueError, match="positive multiple of 6, got 8"):
        encode_chunked(encoder, draw(1, 3, 13, 16, 16), chunk_frames=8)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        decode_chunked(decoder, draw(1, 12, 2, 2, 2), chunk_latents=0)
