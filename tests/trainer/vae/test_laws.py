"""What holds for the autoencoder whatever its weights."""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers import AutoencoderKLMochi

from mochi_trainer.vae import (
    MOCHI_1_STATISTICS,
    Decoder,
    DecoderParams,
    Encoder,
    EncoderParams,
    LatentStatistics,
    Posterior,
    denormalise,
    latent_frames,
    latent_shape,
    normalise,
    video_frames,
)
from tests.trainer.numerics import draw, seeded


@functools.cache
def encoder() -> Encoder:
    return seeded(
        Encoder(EncoderParams(widths=(8, 16, 16, 32), blocks=(1, 1, 1, 1, 1), groups=4, head_width=8))
    )


@functools.cache
def decoder() -> Decoder:
    return seeded(Decoder(DecoderParams(widths=(32, 16, 16, 8), blocks=(1, 1, 1, 1, 1), groups=4)))


@pytest.mark.parametrize("changed", [1, 6, 7, 12])
def test_a_latent_depends_on_no_later_frame(changed: int) -> None:
    video = draw(1, 3, 13, 16, 16).tanh()
    other = video.clone()
    other[:, :, changed] = -other[:, :, changed]
    with torch.no_grad():
        before, after = encoder()(video).mean, encoder()(other).mean
    first = (changed + 5) // 6
    torch.testing.assert_close(after[:, :, :first], before[:, :, :first], rtol=0, atol=1e-12)
    assert (after[:, :, first] - before[:, :, first]).abs().max() > 1e-6


def test_the_first_latent_is_that_of_the_first_frame_alone() -> None:
    video = draw(1, 3, 13, 16, 16).tanh()
    with torch.no_grad():
        whole, alone = encoder()(video), encoder()(video[:, :, :1])
    torch.testing.assert_close(whole.mean[:, :, :1], alone.mean)
    torch.testing.assert_close(whole.logvar[:, :, :1], alone.logvar)


def test_a_frame_depends_on_no_later_latent() -> None:
    z = draw(1, 12, 3, 2, 2)
    with torch.no_grad():
        whole, start = decoder()(z), decoder()(z[:, :, :2])
    torch.testing.assert_close(whole[:, :, :7], start, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("frames", "latent"), [(1, 1), (7, 2), (13, 3), (37, 7), (61, 11), (79, 14), (85, 15), (163, 28)]
)
def test_six_frames_share_a_latent_after_the_first(frames: int, latent: int) -> None:
    assert (latent_frames(frames), video_frames(latent)) == (latent, frames)


def test_shapes_of_latents_and_videos_fit_each_other() -> None:
    assert latent_shape(163, 480, 848) == (28, 60, 106)
    with torch.no_grad():
        posterior = encoder()(draw(1, 3, 7, 16, 24).tanh())
        assert posterior.mean.shape == posterior.logvar.shape == (1, 12, 2, 2, 3)
        assert decoder()(posterior.mean).shape == (1, 3, 7, 16, 24)


@pytest.mark.parametrize("frames", [0, 2, 6, 12, 86])
def test_other_numbers_of_frames_are_refused(frames: int) -> None:
    with pytest.raises(ValueError, match=f"1 more than a multiple of 6, got {frames}"):
        latent_frames(frames)


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8, got 16 x 20"):
        latent_shape(7, 16, 20)
    with pytest.raises(ValueError, match="multiple of groups = 32, got 48"):
        EncoderParams(widths=(64, 48, 64, 64))


def test_normalising_and_back_changes_nothing() -> None:
    z = draw(2, 12, 3, 2, 2)
    torch.testing.assert_close(denormalise(normalise(z, MOCHI_1_STATISTICS), MOCHI_1_STATISTICS), z)


def test_normalised_latents_have_mean_zero_and_deviation_one() -> None:
    z = draw(1, 12, 50, 20, 20)
    z = (
        z * torch.tensor(MOCHI_1_STATISTICS.std, dtype=z.dtype)[:, None, None, None]
        + torch.tensor(MOCHI_1_STATISTICS.mean, dtype=z.dtype)[:, None, None, None]
    )
    std, mean = torch.std_mean(normalise(z, MOCHI_1_STATISTICS), dim=(0, 2, 3, 4))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=0.03)
    torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=0.03)


def test_the_statistics_are_the_published_ones() -> None:
    with torch.device("meta"):
        published = AutoencoderKLMochi().config
    assert published["latents_mean"] == MOCHI_1_STATISTICS.mean
    assert published["latents_std"] == MOCHI_1_STATISTICS.std


def test_statistics_of_other_latents_are_refused() -> None:
    with pytest.raises(ValueError, match="must have 2 channels, got shape"):
        normalise(draw(1, 12, 1, 2, 2), LatentStatistics(mean=(0.0, 0.0), std=(1.0, 1.0)))
    with pytest.raises(ValueError, match="std must be above 0, got 0"):
        LatentStatistics(mean=(0.0,), std=(0.0,))


def test_samples_have_the_posterior_s_mean_and_deviation_and_follow_the_generator() -> None:
    mean, logvar = torch.full((1, 12, 20, 20, 20), 0.5), torch.full((1, 12, 20, 20, 20), 2.0)
    first, again, other = (
        Posterior(mean, logvar).sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert abs(float(first.mean()) - 0.5) < 0.05
    assert abs(float(first.std()) - torch.tensor(1.0).exp()) < 0.05
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
