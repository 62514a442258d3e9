"""The encoder: video to the posterior of its latents, 8 x 8 times smaller in space and 6 times in time.

Shapes: B batch; C channels; T, H, W frames, rows, columns. Source: genmoai/mochi (Apache-2.0), names kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mochi_trainer.vae.latents import Posterior, latent_shape
from mochi_trainer.vae.layers import CausalConv, FrameNorm, ResidualBlock, check_widths, pointwise

COLOURS = 3
FOURIER_POWERS = (6, 7)
"""The encoder also sees sine and cosine of each colour at 2 pi times these powers of two."""

STRIDES = ((1, 2, 2), (2, 2, 2), (3, 2, 2))
"""Frames, rows and columns that each down-sampling convolution merges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderParams:
    """Sizes of the encoder; the defaults are those of the published one (97 222 016 parameters)."""

    widths: tuple[int, ...] = (64, 128, 256, 384)
    """Channels before, between and after the three down-sampling convolutions."""

    blocks: tuple[int, ...] = (3, 3, 4, 6, 3)
    """Residual blocks: before, after each down-sampling convolution, and at the end."""

    latent_channels: int = 12

    groups: int = 32
    """Groups of each norm."""

    head_width: int = 32
    """Width of an attention head."""

    def __post_init__(self) -> None:
        if len(self.widths) != len(STRIDES) + 1 or len(self.blocks) != len(STRIDES) + 2:
            raise ValueError(f"widths must be 4 and blocks 5 numbers, got {self.widths} and {self.blocks}")
        check_widths(self.widths, self.groups, self.head_width)


def fourier_features(video_BCTHW: Tensor) -> Tensor:
    """The video and its sines and cosines, 3 to 15 channels; colours vary slower than frequencies."""
    count = len(FOURIER_POWERS)
    omega = [2 * math.pi * 2.0**power for power in FOURIER_POWERS] * video_BCTHW.shape[1]
    scale = torch.tensor(omega, dtype=video_BCTHW.dtype, device=video_BCTHW.device)[:, None, None, None]
    angles = video_BCTHW.repeat_interleave(count, dim=1) * scale
    return torch.cat([video_BCTHW, angles.sin(), angles.cos()], dim=1)


class DownBlock(nn.Module):
    """A convolution that merges frames and pixels, then residual blocks with attention."""

    def __init__(self, params: EncoderParams, stage: int) -> None:
        super().__init__()
        before, after = params.widths[stage : stage + 2]
        self.layers = nn.Sequential(
            CausalConv(before, after, kernel=STRIDES[stage], stride=STRIDES[stage]),
            *(
                ResidualBlock(after, params.groups, params.head_width)
                for _ in range(params.blocks[stage + 1])
            ),
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.layers(x_BCTHW)
        return out


class Encoder(nn.Module):
    """Video to posterior. The first latent frame depends on the first frame of the video only."""

    def __init__(self, params: EncoderParams) -> None:
        super().__init__()
        self.params = params
        first, last, groups = params.widths[0], params.widths[-1], params.groups
        self.layers = nn.ModuleList(
            [
                nn.Linear(COLOURS * (1 + 2 * len(FOURIER_POWERS)), first),
                *(ResidualBlock(first, groups) for _ in range(params.blocks[0])),
                *(DownBlock(params, stage) for stage in range(len(STRIDES))),
                *(ResidualBlock(last, groups, params.head_width) for _ in range(params.blocks[-1])),
            ]
        )
        self.output_norm = FrameNorm(groups, last)
        self.output_proj = nn.Linear(last, 2 * params.latent_channels, bias=False)

    def forward(self, video_BCTHW: Tensor) -> Posterior:
        """The posterior of a video (B, 3, F, H, W) with values in [-1, 1], un-normalised; keep the input in float32.

        Raises ValueError unless F is 1 more than a multiple of 6 and height and width are multiples of 8.
        """
        latent_shape(*video_BCTHW.shape[2:])
        x_BCTHW = self.features(video_BCTHW)
        for layer in list(self.layers)[1:]:
            x_BCTHW = layer(x_BCTHW)
        return self.posterior(x_BCTHW)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """The first activations, (B, C, T, H, W), of a video; each pixel by itself."""
        features_BCTHW = fourier_features(video_BCTHW).to(self.output_proj.weight.dtype)
        return pointwise(self.layers[0], features_BCTHW).contiguous()

    def posterior(self, x_BCTHW: Tensor) -> Posterior:
        """The posterior of the last activations."""
        mean, logvar = self.gaussian(self.output_norm(x_BCTHW)).chunk(2, dim=1)
        return Posterior(mean, logvar)

    def gaussian(self, normed_BCTHW: Tensor) -> Tensor:
        """Mean and logarithm of the variance, one after the other, of the last activations after their norm."""
        return pointwise(self.output_proj, silu(normed_BCTHW))
