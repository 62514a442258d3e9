"""The training objective: predict z - noise at a point of the straight path between them.

`z` is *normalised* (`mochi_trainer.vae.normalise`) before it is mixed with noise; sigma is the share of noise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss


def sigmas_uniform(batch: int, generator: torch.Generator) -> Tensor:
    """Shares of noise (B,), uniform in [0, 1), float32 on the CPU."""
    return torch.rand(batch, generator=generator)


def mix(z_BCTHW: Tensor, noise_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
    """The point of the path: (1 - sigma) z + sigma noise."""
    sigma = sigma_B.to(z_BCTHW)[:, None, None, None, None]
    return (1 - sigma) * z_BCTHW + sigma * noise_BCTHW


def velocity_target(z_BCTHW: Tensor, noise_BCTHW: Tensor) -> Tensor:
    """What the transformer is to predict, z - noise: minus the derivative of the path in sigma."""
    return z_BCTHW - noise_BCTHW


def loss(velocity_BCTHW: Tensor, target_BCTHW: Tensor) -> Tensor:
    """Mean squared error of the whole batch, a float32 scalar."""
    return mse_loss(velocity_BCTHW.float(), target_BCTHW.float())
