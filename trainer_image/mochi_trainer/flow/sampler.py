"""Euler integration from noise to latents, with classifier-free guidance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from mochi_trainer.flow.schedule import linear_quadratic_schedule

Velocity = Callable[[Tensor, float], Tensor]
"""Latents (B, C, T, H, W) and noise level to velocity, shaped like the latents."""

Network = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""The call of `mochi_trainer.model.DiT`: latents, sigma (B,), text (B, L, K), mask (B, L) or None."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text features (B, L, K) and the mask (B, L) of their valid tokens; None means that all are valid."""

    text: Tensor
    mask: Tensor | None = None


def euler(velocity: Velocity, z_BCTHW: Tensor, sigmas: Sequence[float]) -> Iterator[Tensor]:
    """Yield the latents after each step from `sigmas[i]` to `sigmas[i + 1]`; the last ones are the sample."""
    for sigma, next_sigma in pairwise(sigmas):
        z_BCTHW = z_BCTHW + (sigma - next_sigma) * velocity(z_BCTHW, sigma)
        yield z_BCTHW


def guided(
    network: Network, prompt: Prompt, empty: Prompt, guidance: float, *, batched: bool = True
) -> Velocity:
    """The velocity unconditional + guidance * (conditional - unconditional).

    `batched` runs both halves in one call, which takes more memory and, on a GPU, less time; the result is the same.
    Guidance 1 is the conditional half alone, computed by itself.
    """

    def conditional(z_BCTHW: Tensor, sigma: float) -> Tensor:
        return _call(network, z_BCTHW, sigma, prompt)

    def two_pass(z_BCTHW: Tensor, sigma: float) -> Tensor:
        base = _call(network, z_BCTHW, sigma, empty)
        return base + guidance * (_call(network, z_BCTHW, sigma, prompt) - base)

    both = _joined(prompt, empty)

    def one_pass(z_BCTHW: Tensor, sigma: float) -> Tensor:
        with_prompt, base = _call(network, torch.cat([z_BCTHW, z_BCTHW]), sigma, both).chunk(2)
        return base + guidance * (with_prompt - base)

    if guidance == 1:
        return conditional
    return one_pass if batched else two_pass


@torch.inference_mode()
def trajectory(
    network: Network, text_LK: Tensor, noise_BCTHW: Tensor, sigmas: Sequence[float], *, guidance: float
) -> Iterator[Tensor]:
    """Yield what `noise_BCTHW` (B = 1) becomes after each guided step, normalised, in its type and on its device.

    `text_LK` are the features of the prompt without padding.
    """
    text_BLK = text_LK[None].to(noise_BCTHW.device)
    batched = noise_BCTHW.device.type == "cuda"
    velocity = guided(network, Prompt(text_BLK), Prompt(text_BLK[:, :0]), guidance, batched=batched)
    yield from euler(velocity, noise_BCTHW, sigmas)


def sample(
    network: Network, text_LK: Tensor, noise_BCTHW: Tensor, *, steps: int = 64, guidance: float = 6.0
) -> Tensor:
    """The last of the `trajectory` of so many steps by `linear_quadratic_schedule`.

    `trajectory` gives every step and every schedule, `euler` and `guided` every choice.
    """
    sigmas = linear_quadratic_schedule(steps)
    return deque(trajectory(network, text_LK, noise_BCTHW, sigmas, guidance=guidance), maxlen=1)[0]


def _call(network: Network, z_BCTHW: Tensor, sigma: float, prompt: Prompt) -> Tensor:
    sigma_B = torch.full((len(z_BCTHW),), sigma, dtype=torch.float32, device=z_BCTHW.device)
    return network(z_BCTHW, sigma_B, prompt.text, prompt.mask)


def _joined(*prompts: Prompt) -> Prompt:
    longest = max(prompt.text.shape[1] for prompt in prompts)
    texts = [pad(prompt.text, (0, 0, 0, longest - prompt.text.shape[1])) for prompt in prompts]
    masks = [pad(_mask(prompt), (0, longest - prompt.text.shape[1])) for prompt in prompts]
    return Prompt(torch.cat(texts), torch.cat(masks))


def _mask(prompt: Prompt) -> Tensor:
    if prompt.mask is not None:
        return prompt.mask
    return torch.ones(prompt.text.shape[:2], dtype=torch.bool, device=prompt.text.device)
