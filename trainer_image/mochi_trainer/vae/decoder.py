"""The decoder: latents to video, the wider half of the autoencoder.

Shapes: B batch; C channels; T, H, W frames, rows, columns. Source: genmoai/mochi (Apache-2.0), names kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from mochi_trainer.vae.encoder import COLOURS
from mochi_trainer.vae.layers import CausalConv, FrameSiLU, ResidualBlock, check_widths, pointwise

EXPANSIONS = ((3, 2, 2), (2, 2, 2), (1, 2, 2))
"""Frames, rows and columns that each up-sampling block makes of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderParams:
    """Sizes of the decoder; the defaults are those of the published one (362 526 595 parameters)."""

    widths: tuple[int, ...] = (768, 512, 256, 128)
    """Channels before, between and after the three up-sampling blocks, latent end first."""

    blocks: tuple[int, ...] = (3, 6, 4, 3, 3)
    """Residual blocks: at the latent end, in each up-sampling block, and at the end."""

    latent_channels: int = 12

    groups: int = 32
    """Groups of each norm."""

    def __post_init__(self) -> None:
        if len(self.widths) != len(EXPANSIONS) + 1 or len(self.blocks) != len(EXPANSIONS) + 2:
            raise ValueError(f"widths must be 4 and blocks 5 numbers, got {self.widths} and {self.blocks}")
        check_widths(self.widths, self.groups)


class UpBlock(nn.Module):
    """Residual blocks, then channels become frames and pixels; frames that would precede the first are dropped."""

    def __init__(self, params: DecoderParams, stage: int) -> None:
        super().__init__()
        before, after = params.widths[stage : stage + 2]
        self.expansion = EXPANSIONS[stage]
        frames, rows, columns = self.expansion
        self.blocks = nn.Sequential(
            *(ResidualBlock(before, params.groups) for _ in range(params.blocks[stage + 1]))
        )
        self.proj = nn.Linear(before, after * frames * rows * columns)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.expanded(self.blocks(x_BCTHW))[:, :, self.expansion[0] - 1 :]

    def expanded(self, x_BCTHW: Tensor) -> Tensor:
        """Channels become frames and pixels; no frame is dropped."""
        frames, rows, columns = self.expansion
        return rearrange(
            pointwise(self.proj, x_BCTHW),
            "B (C t h w) T H W -> B C (T t) (H h) (W w)",
            t=frames,
            h=rows,
            w=columns,
        )


class Decoder(nn.Module):
    """Latents to video."""

    def __init__(self, params: DecoderParams) -> None:
        super().__init__()
        self.params = params
        first, last, groups = params.widths[0], params.widths[-1], params.groups
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(
                    CausalConv(params.latent_channels, first, (1, 1, 1)),
                    *(ResidualBlock(first, groups) for _ in range(params.blocks[0])),
                ),
                *(UpBlock(params, stage) for stage in range(len(EXPANSIONS))),
                nn.Sequential(*(ResidualBlock(last, groups) for _ in range(params.blocks[-1]))),
            ]
        )
        self.activation = FrameSiLU()
        self.output_proj = nn.Linear(last, COLOURS)

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        """The video (B, 3, 6 (T - 1) + 1, 8 H, 8 W) of un-normalised latents; about [-1, 1], not clamped."""
        x_BCTHW = z_BCTHW.to(self.output_proj.weight.dtype)
        for block in self.blocks:
            x_BCTHW = block(x_BCTHW)
        return self.colours(x_BCTHW)

    def colours(self, x_BCTHW: Tensor) -> Tensor:
        """The video (B, 3, T, H, W) of the last activations."""
        return pointwise(self.output_proj, self.activation(x_BCTHW))
