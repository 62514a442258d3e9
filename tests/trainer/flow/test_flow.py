"""The objective, the schedule and the sampler."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule as published_schedule
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mochi_trainer.flow import Prompt, euler, guided, linear_quadratic_schedule, loss, mix, velocity_target
from mochi_trainer.vae import MOCHI_1_STATISTICS, normalise
from tests.trainer.numerics import difference, draw, noted, tiny_dit

SHAPE = (2, 12, 2, 4, 6)


def test_the_path_starts_at_the_latents_and_ends_in_noise() -> None:
    z, noise = draw(*SHAPE), draw(*SHAPE, seed=1)
    assert torch.equal(mix(z, noise, torch.zeros(2)), z)
    assert torch.equal(mix(z, noise, torch.ones(2)), noise)


def test_the_target_is_minus_the_derivative_of_the_path() -> None:
    z, noise = draw(*SHAPE), draw(*SHAPE, seed=1)
    step = (mix(z, noise, torch.full((2,), 0.75)) - mix(z, noise, torch.full((2,), 0.25))) / 0.5
    torch.testing.assert_close(velocity_target(z, noise), -step)


def test_each_sample_of_a_batch_has_its_own_noise_level() -> None:
    z, noise = draw(*SHAPE), draw(*SHAPE, seed=1)
    both = mix(z, noise, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(both[0], 0.75 * z[0] + 0.25 * noise[0])
    torch.testing.assert_close(both[1], 0.25 * z[1] + 0.75 * noise[1])


def test_noise_has_unit_gain_because_latents_are_normalised_before_they_are_mixed() -> None:
    raw, noise = draw(*SHAPE), draw(*SHAPE, seed=1)
    z = normalise(raw, MOCHI_1_STATISTICS)
    sigma = torch.full((2,), 0.3)
    x, target = mix(z, noise, sigma), velocity_target(z, noise)
    torch.testing.assert_close(x + 0.3 * target, z)
    torch.testing.assert_close(x - 0.7 * target, noise)


def test_the_loss_is_a_float32_mean_also_for_bfloat16() -> None:
    ones = torch.ones(1000, dtype=torch.bfloat16)
    value = loss(ones * 1.5, ones)
    assert (value.dtype, float(value)) == (torch.float32, 0.25)


def largest(ours: list[float], theirs: list[float]) -> float:
    return noted(max(abs(a - b) for a, b in zip(ours, theirs, strict=True)))


@pytest.mark.parametrize(("steps", "threshold"), [(64, 0.025), (2, 0.025), (9, 0.1), (50, 0.01)])
def test_the_schedule_is_the_published_one(steps: int, threshold: float) -> None:
    ours = linear_quadratic_schedule(steps, threshold)
    assert largest(ours[:-1], published_schedule(steps, threshold)) <= 1e-12
    assert ours[-1] == 0


def test_the_fast_schedule_is_the_published_one() -> None:
    ours = linear_quadratic_schedule(8, 0.1, linear_steps=6)
    assert largest(ours[:-1], published_schedule(8, 0.1, 6)) <= 1e-12


@given(st.integers(1, 200), st.floats(0.001, 0.4))
def test_noise_levels_fall_from_one_to_zero(steps: int, threshold: float) -> None:
    sigmas = linear_quadratic_schedule(steps, threshold)
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (steps + 1, 1, 0)
    assert all(before > after for before, after in pairwise(sigmas))


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="linear steps must be between 1 and steps - 1 = 7, got 8"):
        linear_quadratic_schedule(8, 0.1, linear_steps=8)
    with pytest.raises(ValueError, match="threshold must be between 0 and 1, got 0"):
        linear_quadratic_schedule(8, 0)


def test_euler_is_exact_on_a_straight_path() -> None:
    z, noise = draw(*SHAPE), draw(*SHAPE, seed=1)

    def velocity(x: Tensor, sigma: float) -> Tensor:
        torch.testing.assert_close(x, mix(z, noise, torch.full((2,), sigma, dtype=x.dtype)))
        return velocity_target(z, noise)

    steps = list(euler(velocity, noise, linear_quadratic_schedule(7)))
    assert len(steps) == 7
    torch.testing.assert_close(steps[-1], z)


def prompts() -> tuple[Prompt, Prompt]:
    return Prompt(draw(1, 5, 64, seed=1)), Prompt(torch.zeros(1, 0, 64, dtype=torch.float64))


@pytest.mark.parametrize("batched", [True, False])
def test_guidance_extrapolates_from_the_empty_prompt(batched: bool) -> None:
    model, (prompt, empty) = tiny_dit(), prompts()
    z, sigma = draw(1, 12, 2, 4, 6), torch.tensor([0.5])
    with torch.no_grad():
        base, conditional = model(z, sigma, empty.text), model(z, sigma, prompt.text)
        ours = guided(model, prompt, empty, 6.0, batched=batched)(z, 0.5)
    assert difference(ours, base + 6 * (conditional - base)) <= 1e-12


def test_guidance_one_is_the_prompt_alone() -> None:
    model, (prompt, empty) = tiny_dit(), prompts()
    z = draw(1, 12, 2, 4, 6)
    with torch.no_grad():
        assert torch.equal(
            guided(model, prompt, empty, 1.0)(z, 0.5), model(z, torch.tensor([0.5]), prompt.text)
        )


def test_four_guided_steps_are_the_same_batched_and_in_two_passes() -> None:
    model, (prompt, empty) = tiny_dit(), prompts()
    sigmas = linear_quadratic_schedule(4)
    with torch.no_grad():
        *_, batched = euler(guided(model, prompt, empty, 3.0), draw(1, 12, 2, 4, 6), sigmas)
        *_, two_pass = euler(guided(model, prompt, empty, 3.0, batched=False), draw(1, 12, 2, 4, 6), sigmas)
    assert difference(batched, two_pass) <= 1e-9
