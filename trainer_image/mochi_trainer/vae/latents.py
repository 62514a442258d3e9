"""What the encoder returns, how latents are normalised, and how many frames and rows they have.

Shapes: B batch; C latent channels; T, H, W frames, rows, columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TEMPORAL = 6
"""Frames of video per latent frame, after the first."""

SPATIAL = 8
"""Rows (and columns) of video per latent row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentStatistics:
    """Mean and standard deviation of each latent channel over the data the transformer was trained on."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std must have equal lengths, got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {min(self.std)}")


MOCHI_1_STATISTICS = LatentStatistics(
    mean=(
        -0.06730895953510081,
        -0.038011381506090416,
        -0.07477820912866141,
        -0.05565264470995561,
        0.012767231469026969,
        -0.04703542746246419,
        0.043896967884726704,
        -0.09346305707025976,
        -0.09918314763016893,
        -0.008729793427399178,
        -0.011931556316503654,
        -0.0321993391887285,
    ),
    std=(
        0.9263795028493863,
        0.9248894543193766,
        0.9393059390890617,
        0.959253732819592,
        0.8244560132752793,
        0.917259975397747,
        0.9294154431013696,
        1.3720942357788521,
        0.881393668867029,
        0.9168315692124348,
        0.9185249279345552,
        0.9274757570805041,
    ),
)
"""The published statistics of Mochi-1 (genmoai/mochi)."""


def _per_channel(values: tuple[float, ...], like_BCTHW: Tensor) -> Tensor:
    if like_BCTHW.shape[-4] != len(values):
        raise ValueError(f"latents must have {len(values)} channels, got shape {tuple(like_BCTHW.shape)}")
    return torch.tensor(values, dtype=like_BCTHW.dtype, device=like_BCTHW.device)[:, None, None, None]


def normalise(z_BCTHW: Tensor, statistics: LatentStatistics) -> Tensor:
    """Latents of the encoder brought to the space of the transformer: (z - mean) / std, with or without a batch."""
    return (z_BCTHW - _per_channel(statistics.mean, z_BCTHW)) / _per_channel(statistics.std, z_BCTHW)


def denormalise(z_BCTHW: Tensor, statistics: LatentStatistics) -> Tensor:
    """Latents of the transformer brought to the space of the decoder: z * std + mean."""
    return z_BCTHW * _per_channel(statistics.std, z_BCTHW) + _per_channel(statistics.mean, z_BCTHW)


def latent_frames(frames: int) -> int:
    """Latent frames of a video with `frames` frames; raise ValueError unless that is 1 more than a multiple of 6."""
    if frames < 1 or frames % TEMPORAL != 1:
        raise ValueError(f"frames must be 1 more than a multiple of {TEMPORAL}, got {frames}")
    return (frames - 1) // TEMPORAL + 1


def video_frames(latent: int) -> int:
    """Frames of the video that `latent` latent frames decode to."""
    return (latent - 1) * TEMPORAL + 1


def latent_shape(frames: int, height: int, width: int) -> tuple[int, int, int]:
    """(T, H, W) of the latents of a video; raise ValueError when its size does not divide."""
    if height % SPATIAL or width % SPATIAL or min(height, width) < SPATIAL:
        raise ValueError(f"height and width must be multiples of {SPATIAL}, got {height} x {width}")
    return latent_frames(frames), height // SPATIAL, width // SPATIAL


@dataclass(frozen=True, slots=True)
class Posterior:
    """The Gaussian of each latent, un-normalised: mean and logarithm of the variance, each (B, C, T, H, W)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw. The generator is on the CPU, so that the draw is the same on every device."""
        noise = torch.randn(self.mean.shape, dtype=torch.float32, generator=generator).to(self.mean)
        return self.mean + noise * torch.exp(0.5 * self.logvar)
