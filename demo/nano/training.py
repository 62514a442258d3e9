"""Seeded training of the small autoencoder and the small transformer, on a CPU.

Everything is drawn from streams of one seed, so the same machine makes the same weights again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import T5EncoderModel

from demo.nano import real
from demo.nano.clips import (
    COLOURS,
    DIRECTIONS,
    GROUNDS,
    SHAPES,
    Clip,
    drawn_subject,
    moving_shape,
    moving_texture,
)
from demo.nano.initial import initialise
from mochi_trainer import seeds
from mochi_trainer.flow import loss, mix, velocity_target
from mochi_trainer.model import DiT
from mochi_trainer.model.layers import masked_mean
from mochi_trainer.text import byte_tokenizer
from mochi_trainer.vae import Decoder, Encoder, LatentStatistics

Report = Callable[[str, int, float], None]
"""Called with the name of a number, the step and its value."""

KL_WEIGHT = 2e-5
CAPTION_DROPOUT = 0.1
REPORT_EVERY = 100
PIECE_FRAMES, PIECE_SIDE, PIECES = 7, 48, 4
"""What the autoencoder sees in one step."""

REAL_PIECES, DRAWN_PIECES = 0.4, 0.5
"""Shares of real pieces and of drawn shapes; the rest is soft noise."""

REAL_CLIPS = 0.1
"""Share of real clips among those the transformer sees."""

CAPTIONS = 48
"""Captions of one step of the text encoder."""

QUIET = 0.05
"""What the modulation of a random transformer is multiplied by before training."""

AVERAGED_STEPS = 400
"""The transformer that is kept is the mean of about so many last steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How long to train, and from what."""

    autoencoder_steps: int
    colour_steps: int
    """Further steps of the autoencoder in which colour counts more."""
    text_steps: int
    transformer_steps: int
    clips: int
    """Drawn clips the transformer learns from."""
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


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


def _optimizer(parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)


def _step(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """One update: the rate rises over 100 steps, then falls to nothing along a cosine."""
    rate = peak * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def piece(videos: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """A piece (3, F, H, W) of a real clip, a drawn shape or soft noise."""
    kind = float(torch.rand((), generator=generator))
    if videos and kind < REAL_PIECES:
        return real.piece(videos, generator, frames=PIECE_FRAMES, height=PIECE_SIDE, width=PIECE_SIDE)
    video = (moving_shape if kind < REAL_PIECES + DRAWN_PIECES else moving_texture)(generator).video
    t, top, left = (
        int(torch.randint(have - want + 1, (), generator=generator))
        for have, want in zip(video.shape[1:], (PIECE_FRAMES, PIECE_SIDE, PIECE_SIDE), strict=True)
    )
    return video[:, t : t + PIECE_FRAMES, top : top + PIECE_SIDE, left : left + PIECE_SIDE]


@dataclass(frozen=True, slots=True)
class Round:
    """A part of the autoencoder's training, with a learning rate that rises and falls."""

    steps: int
    peak: float
    colour: float
    """Weight of the error of what is left of a pixel without its mean, besides that of the pixel."""
    first: int
    """Number of the first step in the stream of pieces."""


def rounds(effort: Effort) -> tuple[Round, Round]:
    """First everything, then colour: of the difference of red and green little was learned without the second."""
    return (
        Round(effort.autoencoder_steps, peak=4e-3, colour=0.0, first=0),
        Round(effort.colour_steps, peak=2e-3, colour=3.0, first=100_000),
    )


def train_autoencoder(
    encoder: Encoder, decoder: Decoder, videos: Sequence[Tensor], effort: Effort, report: Report
) -> None:
    """Reconstruct pieces of clips, with a weak pull of the posterior towards the unit Gaussian."""
    for each in rounds(effort):
        optimizer = _optimizer(_parameters((encoder, decoder)), each.peak)
        for step in range(each.steps):
            draws = seeds.stream(effort.seed, "augment", step=each.first + step)
            video = torch.stack([piece(videos, draws) for _ in range(PIECES)])
            posterior = encoder(video)
            error = decoder(posterior.sample(draws)) - video
            kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean()
            colour = (error - error.mean(dim=1, keepdim=True)).square().mean()
            torch.autograd.backward(error.square().mean() + each.colour * colour + KL_WEIGHT * kl)
            _step(optimizer, each.peak, step, each.steps)
            if step % REPORT_EVERY == 0:
                report("autoencoder_psnr", each.first + step, psnr(video, video + error.detach()))


@torch.no_grad()
def latents(encoder: Encoder, clips: Iterable[Clip]) -> Tensor:
    """Posterior means of clips, (B, C, T, H, W)."""
    return torch.cat([encoder(clip.video[None]).mean for clip in clips])


def statistics(z: Tensor) -> LatentStatistics:
    """Mean and standard deviation of each channel."""
    std, mean = torch.std_mean(z, dim=(0, 2, 3, 4))
    return LatentStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def train_text_encoder(t5: T5EncoderModel, effort: Effort, report: Report) -> None:
    """Learn captions of drawn clips by naming what they say from the mean of their features, with one linear layer.

    The layer is thrown away. The transformer then takes the features as they are, as that of Mochi-1 takes T5's.
    """
    fields = [tuple(options) for options in (COLOURS, GROUNDS, DIRECTIONS, SHAPES)]
    probe = nn.Linear(t5.config.d_model, sum(map(len, fields)))
    initialise(probe, effort.seed)
    peak, parameters, tokenizer = 2e-3, _parameters((t5, probe)), byte_tokenizer()
    optimizer = _optimizer(parameters, peak)
    for step in range(effort.text_steps):
        draws = seeds.stream(effort.seed, "weights", step=step)
        subjects = [drawn_subject(draws) for _ in range(CAPTIONS)]
        text, mask = features(t5, [tokenizer(subject.caption) for subject in subjects])
        answers = probe(masked_mean(text, mask)[:, 0]).split([len(field) for field in fields], dim=1)
        right = [
            torch.tensor([field.index(word) for word in words])
            for field, words in zip(fields, zip(*subjects, strict=True), strict=True)
        ]
        value = torch.stack([cross_entropy(*each) for each in zip(answers, right, strict=True)]).sum()
        torch.autograd.backward(value)
        _step(optimizer, peak, step, effort.text_steps)
        if step % REPORT_EVERY == 0:
            report("text_loss", step, value.item())


@torch.no_grad()
def begin_quietly(model: DiT) -> None:
    """Let every block of a random transformer change little, and its output be near zero: it learns faster."""
    layers = [getattr(block, name) for block in model.blocks for name in ("mod_x", "mod_y")]
    for parameter in _parameters([*layers, model.final_layer]):
        parameter.mul_(QUIET)


@dataclass(frozen=True, slots=True)
class Lessons:
    """Normalised latents (B, C, T, H, W) and their captions."""

    z: Tensor
    captions: Sequence[str]


def train_transformer(
    model: DiT, t5: T5EncoderModel, drawn: Lessons, shot: Lessons | None, effort: Effort, report: Report
) -> None:
    """Learn the velocity of normalised latents, drawn and real. No caption one time in ten.

    The model ends as the running mean of its weights.
    """
    peak = 4e-3
    parameters = _parameters([model])
    optimizer, mean = _optimizer(parameters, peak), [parameter.detach().clone() for parameter in parameters]
    z = drawn.z if shot is None else torch.cat([drawn.z, shot.z])
    texts = encoded(t5, [*drawn.captions, *(shot.captions if shot else ())])
    for step in range(effort.transformer_steps):
        draws = seeds.stream(effort.seed, "noise", step=step)
        chosen = _chosen(len(drawn.z), len(z), effort.batch, draws)
        value = torch.zeros(())
        # Captions of real clips are several times as long: padding all others to them would take most of the time.
        for alike in ([i for i in chosen if i < len(drawn.z)], [i for i in chosen if i >= len(drawn.z)]):
            if alike:
                text, mask = padded([texts[index] for index in alike])
                mask = mask & (torch.rand(len(alike), 1, generator=draws) >= CAPTION_DROPOUT)
                part = flow_loss_at(model, z[alike], text, mask, draws) * len(alike) / effort.batch
                torch.autograd.backward(part)
                value += part.detach()
        _step(optimizer, peak, step, effort.transformer_steps)
        weight = max(1 / AVERAGED_STEPS, 1 / (step + 1))
        torch._foreach_lerp_(mean, [parameter.detach() for parameter in parameters], weight)
        if step % REPORT_EVERY == 0:
            report("transformer_loss", step, value.item())
    with torch.no_grad():
        for parameter, averaged in zip(parameters, mean, strict=True):
            parameter.copy_(averaged)


def _chosen(drawn: int, total: int, batch: int, draws: torch.Generator) -> list[int]:
    """Which clips a step sees; a real one with the probability `REAL_CLIPS`."""
    first = torch.randint(drawn, (batch,), generator=draws)
    if total == drawn:
        return [int(index) for index in first]
    second = torch.randint(drawn, total, (batch,), generator=draws)
    is_real = torch.rand(batch, generator=draws) < REAL_CLIPS
    return [int(index) for index in torch.where(is_real, second, first)]


def flow_loss_at(model: DiT, z: Tensor, text: Tensor, mask: Tensor, draws: torch.Generator) -> Tensor:
    """The training loss of normalised latents at noise and noise levels from `draws`."""
    noise = torch.randn(z.shape, generator=draws)
    sigma = torch.rand(len(z), generator=draws)
    return loss(model(mix(z, noise, sigma), sigma, text, mask), velocity_target(z, noise))


def features(t5: T5EncoderModel, ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Text features (B, L, K) of token ids, and the mask (B, L) of those that are no padding."""
    tokens, mask = padded([torch.tensor(row) for row in ids])
    return t5(input_ids=tokens, attention_mask=mask.long()).last_hidden_state, mask


@torch.no_grad()
def encoded(t5: T5EncoderModel, captions: Sequence[str]) -> list[Tensor]:
    """Features (L, K) of each caption."""
    tokenizer = byte_tokenizer()
    found = {caption: features(t5, [tokenizer(caption)])[0][0] for caption in sorted(set(captions))}
    return [found[caption] for caption in captions]


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of different length, (L, ...), as one tensor (B, L, ...), and the mask (B, L) of what is no padding."""
    counts = torch.tensor([len(row) for row in rows])
    together = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return together, torch.arange(together.shape[1]) < counts[:, None]
