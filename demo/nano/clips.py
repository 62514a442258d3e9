"""Short clips drawn in code, with captions that say what is seen: a coloured shape that moves over a plain ground.

Shapes: F frames, H rows, W columns. Values are in [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

COLOURS = {
    "red": (0.9, -0.8, -0.8),
    "green": (-0.8, 0.7, -0.7),
    "blue": (-0.8, -0.6, 0.9),
    "yellow": (0.9, 0.8, -0.7),
    "white": (0.95, 0.95, 0.95),
    "purple": (0.4, -0.8, 0.7),
}
GROUNDS = {"black": (-0.95, -0.95, -0.95), "grey": (0.0, 0.0, 0.0), "brown": (-0.2, -0.5, -0.75)}
DIRECTIONS = {"right": (0.0, 1.0), "left": (0.0, -1.0), "down": (1.0, 0.0), "up": (-1.0, 0.0)}
"""Direction and its (row, column) step."""

SHAPES = ("circle", "square", "diamond")
FRAMES, HEIGHT, WIDTH = 13, 64, 112


class Clip(NamedTuple):
    """One clip."""

    video: Tensor
    """(3, F, H, W)"""
    caption: str


class Subject(NamedTuple):
    """What a drawn clip shows."""

    colour: str
    ground: str
    direction: str
    shape: str

    @property
    def caption(self) -> str:
        """The words for it."""
        return f"a {self.colour} {self.shape} moves {self.direction} over a {self.ground} ground"


def drawn_subject(generator: torch.Generator) -> Subject:
    """A colour, a ground, a direction and a shape, each equally likely."""
    return Subject(
        *(_choice(tuple(options), generator) for options in (COLOURS, GROUNDS, DIRECTIONS, SHAPES))
    )


def _choice(options: tuple[str, ...], generator: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (), generator=generator))]


def moving_shape(generator: torch.Generator) -> Clip:
    """A shape of one colour that moves in one direction, twice a shape's size or so, in 13 frames."""
    subject = drawn_subject(generator)
    colour, ground, direction, shape = subject
    size = 9 + 8 * torch.rand((), generator=generator)
    travel = torch.tensor(DIRECTIONS[direction]) * (14 + 16 * torch.rand((), generator=generator))
    middle = torch.tensor([HEIGHT / 2, WIDTH / 2]) + torch.tensor([6.0, 24.0]) * (
        2 * torch.rand(2, generator=generator) - 1
    )
    time = torch.linspace(-1, 1, FRAMES)[:, None, None]
    rows = torch.arange(HEIGHT)[None, :, None] - (middle[0] + time * travel[0])
    columns = torch.arange(WIDTH)[None, None, :] - (middle[1] + time * travel[1])
    inside = torch.sigmoid(2 * (size - _distance(shape, rows, columns)))
    shade = 0.15 * (2 * torch.rand((), generator=generator) - 1)
    video = torch.tensor(GROUNDS[ground])[:, None, None, None] + shade * torch.linspace(-1, 1, WIDTH)
    video = video + inside * (torch.tensor(COLOURS[colour])[:, None, None, None] - video)
    return Clip(video.clamp(-1, 1), subject.caption)


def _distance(shape: str, rows: Tensor, columns: Tensor) -> Tensor:
    rows, columns = rows.abs(), columns.abs()
    if shape == "circle":
        return torch.hypot(rows, columns)
    return torch.maximum(rows, columns) * 1.1 if shape == "square" else (rows + columns) * 0.8


def moving_texture(generator: torch.Generator) -> Clip:
    """Soft coloured noise of several grains that slides by: teaches the autoencoder what shapes do not show."""
    video = torch.zeros(3, FRAMES, HEIGHT, WIDTH)
    for grain in (4, 8, 16, 32):
        speed = (torch.rand(2, generator=generator) - 0.5) * 4
        sheet = torch.randn(1, 3, 2 * HEIGHT // grain + 2, 2 * WIDTH // grain + 2, generator=generator)
        sheet = interpolate(sheet, size=(2 * HEIGHT, 2 * WIDTH), mode="bicubic", align_corners=False)[0]
        strength = torch.rand((), generator=generator) * grain / 32
        for frame in range(FRAMES):
            row, column = (int(speed[axis] * frame) + 26 for axis in (0, 1))
            video[:, frame] += strength * sheet[:, row : row + HEIGHT, column : column + WIDTH]
    tint = torch.rand(3, generator=generator)[:, None, None, None] - 0.5
    return Clip((0.6 * video + tint).tanh(), "")
