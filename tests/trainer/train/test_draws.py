"""What the model is shown: normalised latents, the empty prompt for dropped captions, draws that depend on the step only."""

from __future__ import annotations

import pytest
import torch

from mochi_trainer.data import Latents, TextFeatures
from mochi_trainer.presets import preset_named
from mochi_trainer.seeds import stream
from mochi_trainer.train.draws import Example, example
from mochi_trainer.vae import MOCHI_1_STATISTICS, denormalise

CPU = torch.device("cpu")
SHAPE = (12, 2, 4, 6)
DRAWS = torch.Generator().manual_seed(3)
LATENTS = Latents(mean=3 * torch.randn(SHAPE, generator=DRAWS) + 1, logvar=torch.full(SHAPE, -2.0))
TEXT = TextFeatures(features=torch.randn(5, 64, generator=DRAWS))
EMPTY = TextFeatures(features=torch.zeros(0, 64))


def shown(*, step: int = 1, slot: int = 0, dropout: float = 0.0) -> Example:
    return example(
        LATENTS, TEXT, EMPTY, MOCHI_1_STATISTICS,
        seed=7, step=step, slot=slot, caption_dropout=dropout,     )  # fmt: skip


def test_latents_are_normalised_before_they_are_mixed_with_noise() -> None:
    """The known trap: x + (1 - sigma) eps... must give back the clip after de-normalising, the noise must not be scaled."""
    found = shown()
    sigma = found.sigma[:, None, None, None, None]
    z = found.x + sigma * found.target
    eps = found.x - (1 - sigma) * found.target
    clip = denormalise(z, MOCHI_1_STATISTICS)[0]
    noise = torch.randn(SHAPE, generator=stream(7, "posterior", step=1))
    posterior = LATENTS.mean + noise * torch.exp(0.5 * LATENTS.logvar)
    assert torch.allclose(clip, posterior, atol=1e-4)
    assert torch.allclose(eps[0], torch.randn(SHAPE, generator=stream(7, "noise", step=1)), atol=1e-5)


def test_the_sampler_gets_from_noise_to_the_clip_along_the_target() -> None:
    """One Euler step of the true velocity from any point of the path ends at the normalised clip."""
    found = shown(step=4)
    z = found.x + found.sigma[:, None, None, None, None] * found.target
    std = torch.tensor(MOCHI_1_STATISTICS.std)[:, None, None, None]
    mean = torch.tensor(MOCHI_1_STATISTICS.mean)[:, None, None, None]
    assert torch.allclose(z[0] * std + mean, LATENTS.mean, atol=6 * float(torch.exp(torch.tensor(-1.0))))


def test_a_dropped_caption_is_the_empty_prompt_of_sampling() -> None:
    assert shown(dropout=1.0).text.shape == (1, 0, 64)
    assert torch.equal(shown(dropout=0.0).text[0], TEXT.features)


def test_captions_are_dropped_at_the_asked_rate() -> None:
    dropped = sum(shown(step=step, dropout=0.25).text.shape[1] == 0 for step in range(400))
    assert 70 <= dropped <= 130


def test_the_posterior_is_sampled_anew_each_step() -> None:
    one, two = (shown(step=step) for step in (1, 2))
    clips = [e.x + e.sigma[:, None, None, None, None] * e.target for e in (one, two)]
    assert not torch.allclose(*clips, atol=1e-2)


@pytest.mark.parametrize("change", [{"step": 2}, {"slot": 1}])
def test_every_step_and_slot_has_its_own_draws(change: dict[str, int]) -> None:
    assert not torch.equal(shown().x, shown(**change).x)  # type: ignore[arg-type]
    assert torch.equal(shown().x, shown().x)


def test_nano_has_statistics_of_its_own() -> None:
    assert preset_named("nano").latents != MOCHI_1_STATISTICS
