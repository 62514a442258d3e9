"""Whether a video shows what its caption says: the colour of the shape and the direction in which it moves.

What is seen is found without the caption: every pixel is given to the nearest of the known colours, the most frequent
one that is no ground is the shape's, and its centre moves from the first to the last frame.
Shapes: F frames, H rows, W columns, in [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from demo.nano.clips import (
    COLOURS,
    DIRECTIONS,
    FRAMES,
    GROUNDS,
    HEIGHT,
    WIDTH,
    drawn_subject,
)
from demo.nano.training import padded
from mochi_trainer import seeds
from mochi_trainer.flow import Prompt, euler, guided, linear_quadratic_schedule
from mochi_trainer.model import DiT
from mochi_trainer.text import TextEncoder
from mochi_trainer.vae import Decoder, LatentStatistics, denormalise, latent_shape

LEAST_PIXELS = 8
"""In the first and in the last frame; a smaller spot is no shape."""

LEAST_TRAVEL = 4.0
"""Pixels from the first to the last frame; less is no motion."""

STEPS = 20
GUIDANCE = 6.0


class Seen(NamedTuple):
    """What a video shows."""

    colour: str
    direction: str
    """`none` when the shape is not there in the first or last frame, or does not move."""


class Answer(NamedTuple):
    """A caption and the video made for it."""

    caption: str
    video: Tensor
    """(3, F, H, W)"""
    seen: Seen

    @property
    def followed(self) -> bool:
        """Whether the video has the colour and the direction of the caption."""
        words = self.caption.split()
        return self.seen.colour == words[1] and self.seen.direction == words[4]


def seen(video: Tensor) -> Seen:
    """What a video (3, F, H, W) shows."""
    palette = COLOURS | GROUNDS
    values = torch.tensor(list(palette.values()))[:, :, None, None, None]
    nearest = (video - values).square().sum(1).argmin(0)
    counts = {name: int((nearest == index).sum()) for index, name in enumerate(palette) if name in COLOURS}
    colour = max(counts, key=lambda name: counts[name])
    return Seen(colour, _direction((nearest == list(palette).index(colour)).float()))


def _direction(shape: Tensor) -> str:
    area = shape.sum((1, 2))
    if min(area[0], area[-1]) < LEAST_PIXELS:
        return "none"
    rows, columns = torch.arange(shape.shape[1]), torch.arange(shape.shape[2])
    path = torch.stack([(shape.sum(2) * rows).sum(1), (shape.sum(1) * columns).sum(1)]) / area
    travel = path[:, -1] - path[:, 0]
    if travel.abs().max() < LEAST_TRAVEL:
        return "none"
    return max(DIRECTIONS, key=lambda name: float(torch.tensor(DIRECTIONS[name]) @ travel))


@torch.inference_mode()
def answers(
    model: DiT,
    text: TextEncoder,
    decoder: Decoder,
    latents: LatentStatistics,
    *,
    count: int = 10,
    seed: int = 0,
) -> list[Answer]:
    """Samples for `count` captions, the n-th caption and its noise drawn from the n-th stream of `seed`."""
    streams = [seeds.stream(seed, "sample", step=index) for index in range(count)]
    captions = [drawn_subject(stream).caption for stream in streams]
    shape = (12, *latent_shape(FRAMES, HEIGHT, WIDTH))
    noise = torch.stack([torch.randn(shape, generator=stream) for stream in streams])
    features, mask = padded([each.features for each in text.encode(captions)])
    prompt, empty = Prompt(features, mask), Prompt(features[:, :0])
    z = noise
    velocity = guided(model, prompt, empty, GUIDANCE, batched=False)
    for z in euler(velocity, noise, linear_quadratic_schedule(STEPS)):  # noqa: B007  # the last is kept
        pass
    videos = decoder(denormalise(z, latents)).clamp(-1, 1)
    return [Answer(caption, video, seen(video)) for caption, video in zip(captions, videos, strict=True)]
