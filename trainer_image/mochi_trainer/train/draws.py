"""What the model is shown: a clip's latents, normalised, then mixed with noise; every draw a function of (seed, step, slot).

A slot is a clip's place in the global batch, so that the draws do not depend on how many ranks share it.
Shapes: B = 1; C, T, H, W as in `mochi_trainer.vae`; L tokens, K text features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mochi_trainer import flow
from mochi_trainer.data import Latents, TextFeatures
from mochi_trainer.seeds import Purpose, stream
from mochi_trainer.vae import LatentStatistics, Posterior, normalise


@dataclass(frozen=True, slots=True)
class Example:
    """One input of the model and what it is to answer."""

    x: Tensor
    """Latents mixed with noise (B, C, T, H, W)."""
    sigma: Tensor
    """Share of noise (B,), float32."""
    text: Tensor
    """Caption features (B, L, K) without padding; L = 0 is the empty prompt."""
    target: Tensor
    """The velocity z - noise (B, C, T, H, W)."""

    def loss(self, model: nn.Module) -> Tensor:
        """Mean squared error of the model's velocity, a float32 scalar."""
        return flow.loss(model(self.x, self.sigma, self.text), self.target)

    def to(self, device: torch.device) -> Example:
        """The same on `device`; from pinned memory without waiting for the copy."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Example:
        """The same in pinned host memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Example:
        return Example(change(self.x), change(self.sigma), change(self.text), change(self.target))


def example(
    latents: Latents,
    text: TextFeatures,
    empty: TextFeatures,
    statistics: LatentStatistics,
    *,
    seed: int,
    step: int,
    slot: int,
    caption_dropout: float,
) -> Example:
    """The example that `slot` of step `step` makes of a clip, on the CPU, so that the draws are alike for every device."""

    def draws(purpose: Purpose) -> torch.Generator:
        return stream(seed, purpose, step=step, rank=slot)

    z = Posterior(latents.mean[None], latents.logvar[None]).sample(draws("posterior"))
    dropped = float(torch.rand((), generator=draws("caption-dropout"))) < caption_dropout
    sigma = noise_level(seed, step, slot)
    return mixed(z, empty if dropped else text, statistics, sigma, draws("noise"))


def noise_level(seed: int, step: int, slot: int) -> Tensor:
    """The share of noise (B,) that `slot` of step `step` is trained at, on the CPU."""
    return flow.sigmas_uniform(1, stream(seed, "sigma", step=step, rank=slot))


def mixed(
    z_BCTHW: Tensor,
    text: TextFeatures,
    statistics: LatentStatistics,
    sigma_B: Tensor,
    noise: torch.Generator,
    *,
    mirrored: bool = False,
) -> Example:
    """The example, on the CPU, at `sigma_B` for latents as the encoder gives them: they are normalised here, before the noise.

    `mirrored` takes the negative of the noise that is drawn.
    """
    z = normalise(z_BCTHW.float(), statistics)
    drawn = torch.randn(z.shape, generator=noise)
    eps = -drawn if mirrored else drawn
    return Example(flow.mix(z, eps, sigma_B), sigma_B, text.features[None], flow.velocity_target(z, eps))
