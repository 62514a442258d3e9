"""Seeded training of the small autoencoder and the small transformer, on a CPU and one thread.

Everything is drawn from streams of one seed, so the same machine makes the same weights again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss
from transformers import T5EncoderModel

from mochi_trainer import seeds
from mochi_trainer.flow import loss, mix, velocity_target
from mochi_trainer.model import DiT
from mochi_trainer.presets.nano.clips import Clip, moving_shape, moving_texture
from mochi_trainer.text import TextEncoder, byte_tokenizer
from mochi_trainer.vae import Decoder, Encoder, LatentStatistics, normalise

Report = Callable[[str, int, float], None]
"""Called with the name of a number, the step and its value."""

KL_WEIGHT = 1e-4
CAPTION_DROPOUT = 0.1
REPORT_EVERY = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How long to train, and from what."""

    autoencoder_steps: int
    transformer_steps: int
    clips: int
    """Clips the transformer learns from."""
    batch: int
    seed: int


def psnr(video: Tensor, reconstruction: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of videos in [-1, 1]."""
    return -10 * math.log10(float(mse_loss(reconstruction.clamp(-1, 1), video)) / 4)


@torch.no_grad()
def calm(encoder: Encoder) -> None:
    """Make a random encoder easy to train: its Fourier features start faint, and its posterior narrow."""
    colours_in = encoder.layers[0]
    if not isinstance(colours_in, nn.Linear):
        raise TypeError(f"the encoder must begin with a linear layer, got {type(colours_in).__name__}")
    colours_in.weight[:, 3:] *= 0.1
    _, logvar = encoder.output_proj.weight.chunk(2)
    logvar.mul_(0.2).sub_(0.36)


def _optimizer(modules: Iterable[nn.Module], rate: float) -> torch.optim.AdamW:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)


def _step(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """One update: the rate rises over 50 steps, then falls to nothing along a cosine."""
    rate = peak * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def crop(generator: torch.Generator, *, frames: int = 7, height: int = 32, width: int = 48) -> Tensor:
    """A piece (3, frames, height, width) of a new clip, a shape or a texture."""
    draw = moving_shape if torch.rand((), generator=generator) < 0.4 else moving_texture
    video = draw(generator).video
    starts = [
        int(torch.randint(have - want + 1, (), generator=generator))
        for have, want in zip(video.shape[1:], (frames, height, width), strict=True)
    ]
    return video[
        :, starts[0] : starts[0] + frames, starts[1] : starts[1] + height, starts[2] : starts[2] + width
    ]


def train_autoencoder(encoder: Encoder, decoder: Decoder, effort: Effort, report: Report) -> None:
    """Reconstruct pieces of clips, with a weak pull of the posterior towards the unit Gaussian."""
    peak = 2e-3
    optimizer = _optimizer((encoder, decoder), peak)
    for step in range(effort.autoencoder_steps):
        draws = seeds.stream(effort.seed, "augment", step=step)
        video = torch.stack([crop(draws) for _ in range(3)])
        posterior = encoder(video)
        out = decoder(posterior.sample(draws))
        kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean()
        value = mse_loss(out, video) + 0.2 * l1_loss(out, video) + KL_WEIGHT * kl
        torch.autograd.backward(value)
        _step(optimizer, peak, step, effort.autoencoder_steps)
        if step % REPORT_EVERY == 0:
            report("autoencoder_psnr", step, psnr(video, out.detach()))


@torch.no_grad()
def latents(encoder: Encoder, clips: Sequence[Clip]) -> Tensor:
    """Posterior means of clips, (B, C, T, H, W)."""
    return torch.cat([encoder(clip.video[None]).mean for clip in clips])


def statistics(z: Tensor) -> LatentStatistics:
    """Mean and standard deviation of each channel."""
    std, mean = torch.std_mean(z, dim=(0, 2, 3, 4))
    return LatentStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def train_transformer(
    model: DiT, t5: T5EncoderModel, z: Tensor, captions: Sequence[str], effort: Effort, report: Report
) -> None:
    """Learn the velocity of normalised latents; the text encoder learns with it. No caption one time in ten."""
    peak = 1.5e-3
    optimizer = _optimizer((model, t5), peak)
    tokenizer = byte_tokenizer()
    ids = [tokenizer(caption) for caption in captions]
    for step in range(effort.transformer_steps):
        draws = seeds.stream(effort.seed, "noise", step=step)
        chosen = torch.randint(len(ids), (effort.batch,), generator=draws).tolist()
        text, mask = _features(t5, [ids[index] for index in chosen])
        mask = mask & (torch.rand(effort.batch, 1, generator=draws) >= CAPTION_DROPOUT)
        value = flow_loss_at(model, z[chosen], text, mask, draws)
        torch.autograd.backward(value)
        _step(optimizer, peak, step, effort.transformer_steps)
        if step % REPORT_EVERY == 0:
            report("transformer_loss", step, value.item())


def flow_loss_at(model: DiT, z: Tensor, text: Tensor, mask: Tensor, draws: torch.Generator) -> Tensor:
    """The training loss of normalised latents at noise and noise levels from `draws`."""
    noise = torch.randn(z.shape, generator=draws)
    sigma = torch.rand(len(z), generator=draws)
    return loss(model(mix(z, noise, sigma), sigma, text, mask), velocity_target(z, noise))


def _features(t5: T5EncoderModel, ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in ids])
    return t5(input_ids=padded, attention_mask=mask.long()).last_hidden_state, mask


@torch.no_grad()
def held_loss(
    model: DiT, encoder: Encoder, t5: T5EncoderModel, latents_of: LatentStatistics, seed: int, count: int = 16
) -> float:
    """The training loss on clips that training does not see, at fixed noise; 2 is what predicting zero costs."""
    draws = seeds.stream(seed, "validation")
    clips = [moving_shape(draws) for _ in range(count)]
    z = normalise(latents(encoder, clips), latents_of)
    captions = TextEncoder(t5, byte_tokenizer()).tokenizer
    text, mask = _features(t5, [captions(clip.caption) for clip in clips])
    return float(flow_loss_at(model, z, text, mask, draws))
