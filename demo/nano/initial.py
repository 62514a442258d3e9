"""Seeded random weights: each parameter is drawn by its name, so that the order of construction does not matter."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn


def initialise(module: nn.Module, seed: int) -> None:
    """Replace every parameter in place by a draw from (seed, name): norms near 1, biases near 0, matrices of unit gain.

    Nothing is exactly zero, the last layer included, so that a gradient reaches every parameter.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_draw(name, parameter, seed))


def _draw(name: str, parameter: Tensor, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    noise = torch.randn(parameter.shape, generator=generator)
    if name == "pos_frequencies":
        return _frequencies(noise)
    if parameter.ndim > 1:
        return noise / math.sqrt(parameter[0].numel())
    return 0.02 * noise + (1.0 if name.endswith("weight") else 0.0)


def _frequencies(noise: Tensor) -> Tensor:
    """Random mixtures of frame, row and column: waves of 3 to 30 frames and of 40 to 400 units of the scaled grid."""
    longest = torch.tensor([30.0, 400.0, 400.0])[:, None, None]
    steps = torch.linspace(0, 1, noise.shape[-1])
    waves = longest * 10.0 ** (-steps)
    directions = noise / noise.norm(dim=0, keepdim=True)
    frequencies: Tensor = directions * (2 * math.pi) / waves
    return frequencies
