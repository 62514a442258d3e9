"""Real clips as lessons: pieces of every scale for the autoencoder, short clips with their caption for the transformer.

Shapes: F frames, H rows, W columns. Values are in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from demo.nano.clips import FRAMES, HEIGHT, WIDTH, Clip
from mochi_trainer.vae import to_tensor
from mochi_trainer.video import Cut, probe, read_clip

FPS = 30
SHORTER_SIDE = 360
"""Pixels; larger clips are read at this size, which still holds pieces of many scales."""

EVERY_FRAMES = 6
"""Between the starts of two short clips: one latent frame."""

_WHOLE = 100_000
"""More frames than a clip of these has."""


class RealClip(NamedTuple):
    """One file and its caption."""

    name: str
    path: Path
    caption: str


def read_folder(folder: Path) -> list[RealClip]:
    """The clips in `folder` by name, each with the text of the `.txt` file beside it."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in {".mp4", ".mov"})
    return [RealClip(path.stem, path, path.with_suffix(".txt").read_text().strip()) for path in paths]


def first_frames(clip: RealClip) -> Tensor:
    """(1, 3, F, H, W): the beginning of a clip at the size of `nano`, as the stage trim cuts it."""
    return to_tensor(_read(clip, FRAMES, WIDTH, HEIGHT))


def short_clips(clip: RealClip) -> Iterator[Clip]:
    """All of a clip at the size of `nano`, in short clips that begin a few frames apart, and their mirror images."""
    video = to_tensor(_read(clip, _WHOLE, WIDTH, HEIGHT))[0]
    for start in range(0, video.shape[1] - FRAMES + 1, EVERY_FRAMES):
        piece = video[:, start : start + FRAMES]
        yield Clip(piece, clip.caption)
        yield Clip(piece.flip(-1), clip.caption)


def pixels(clip: RealClip) -> Tensor:
    """All frames, uint8 (3, F, H, W), the shorter side at most `SHORTER_SIDE`."""
    found = probe(clip.path)
    factor = min(1.0, SHORTER_SIDE / min(found.width, found.height))
    frames = _read(clip, _WHOLE, round(found.width * factor), round(found.height * factor))
    return torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous()


def piece(
    videos: Sequence[Tensor], generator: torch.Generator, *, frames: int, height: int, width: int
) -> Tensor:
    """(3, frames, height, width): a random cut of one of `pixels`, of any scale, turned and coloured at random."""
    video = videos[int(torch.randint(len(videos), (), generator=generator))]
    most = min(video.shape[2] / height, video.shape[3] / width)
    scale = math.exp(math.log(most) * float(torch.rand((), generator=generator)))
    rows, columns = round(height * scale), round(width * scale)
    t, top, left = (
        int(torch.randint(have - want + 1, (), generator=generator))
        for have, want in zip(video.shape[1:], (frames, rows, columns), strict=True)
    )
    cut = video[:, t : t + frames, top : top + rows, left : left + columns].float() / 127.5 - 1
    scaled = interpolate(
        cut.transpose(0, 1), size=(height, width), mode="bicubic", antialias=True, align_corners=False
    ).transpose(0, 1)
    return _varied(scaled, generator).clamp(-1, 1)


def _varied(video: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored, played backwards, with its colours exchanged, and with another contrast, each at random."""
    mirrored, backwards, exchanged, recoloured = torch.rand(4, generator=generator) < torch.tensor(
        [0.5, 0.3, 0.5, 0.5]
    )
    if mirrored:
        video = video.flip(-1)
    if backwards:
        video = video.flip(1)
    if exchanged:
        video = video[torch.randperm(3, generator=generator)]
    if recoloured:
        gain = 0.6 + 0.6 * torch.rand(3, 1, 1, 1, generator=generator)
        video = gain * video + 0.3 * (2 * torch.rand(3, 1, 1, 1, generator=generator) - 1)
    return video


def _read(clip: RealClip, frames: int, width: int, height: int) -> NDArray[np.uint8]:
    cut = Cut(frames=frames, least=FRAMES, fps=FPS, width=width, height=height)
    return read_clip(clip.path, cut).frames
