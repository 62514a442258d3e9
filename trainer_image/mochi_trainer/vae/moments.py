"""The statistics that a norm needs of whole frames, gathered from tiles.

Shapes: B batch; C channels; G groups of a norm; T, H, W frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from mochi_trainer.vae.layers import FrameNorm


class Moments:
    """Mean and variance of the groups of each frame, (B, G, T) in float64.

    Tiles are merged by the rule of Chan, Golub and LeVeque (1983), which subtracts no large sums.
    """

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._count = 0
        self._mean_BGT = self._squares_BGT = torch.zeros((), dtype=torch.float64)
        """Mean, and sum of the squared distances from it."""

    def add(self, tile_BCTHW: Tensor) -> None:
        """Count one more tile of all frames."""
        wide_BGCTHW = rearrange(
            tile_BCTHW.to(_wide(tile_BCTHW)), "B (G C) T H W -> B G C T H W", G=self._groups
        )
        var, mean = (part.double() for part in torch.var_mean(wide_BGCTHW, dim=(2, 4, 5), correction=0))
        count = wide_BGCTHW[0, 0, :, 0].numel()
        total, step = self._count + count, mean - self._mean_BGT
        self._squares_BGT = self._squares_BGT + var * count + step.square() * (self._count * count / total)
        self._mean_BGT = self._mean_BGT + step * (count / total)
        self._count = total

    def split(self, lengths: Sequence[int]) -> list[Moments]:
        """The statistics of the first frames, of the next, and so on."""
        parts = []
        for mean, squares in zip(
            torch.split(self._mean_BGT, list(lengths), dim=-1),
            torch.split(self._squares_BGT, list(lengths), dim=-1),
            strict=True,
        ):
            parts.append(self._of(mean, squares))
        return parts

    @classmethod
    def joined(cls, parts: Sequence[Moments]) -> Moments:
        """The statistics of all frames of several chunks, counted on the same tiles."""
        return parts[0]._of(
            torch.cat([part._mean_BGT for part in parts], dim=-1),
            torch.cat([part._squares_BGT for part in parts], dim=-1),
        )

    def _of(self, mean_BGT: Tensor, squares_BGT: Tensor) -> Moments:
        other = Moments(self._groups)
        other._count, other._mean_BGT, other._squares_BGT = self._count, mean_BGT, squares_BGT
        return other

    def normed(self, norm: FrameNorm, x_BCTHW: Tensor) -> Tensor:
        """A tile, contiguous, as `norm` gives it within the frames that were counted.

        Computed as a batch norm whose channels are the channels of each frame: it takes given statistics.
        """
        batch, channels, frames = x_BCTHW.shape[:3]
        dtype = _wide(x_BCTHW)
        mean, var = (
            part.to(dtype).repeat_interleave(channels // self._groups, dim=1).flatten()
            for part in (self._mean_BGT, self._squares_BGT / self._count)
        )
        weight, bias = (
            part.to(dtype)[:, None].expand(batch, channels, frames).flatten()
            for part in (norm.weight, norm.bias)
        )
        flat = x_BCTHW.view(1, -1, *x_BCTHW.shape[3:])
        return torch.batch_norm(
            flat, weight, bias, mean, var, training=False, momentum=0.0, eps=norm.eps, cudnn_enabled=False
        ).view_as(x_BCTHW)


def _wide(x: Tensor) -> torch.dtype:
    """The type in which statistics of `x` are computed: its own, at least float32."""
    return torch.promote_types(x.dtype, torch.float32)
