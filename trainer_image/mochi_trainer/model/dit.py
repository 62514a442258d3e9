"""The forward pass of Mochi-1's transformer: joint attention of a wide visual and a narrow text stream.

Shapes are suffixes of names; the legend is in `mochi_trainer.model.layers`. Source: genmoai/mochi (Apache-2.0), whose
parameter names and shapes are kept, so that a published checkpoint loads with `strict=True`.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from mochi_trainer.model.attention import attention
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.model.layers import (
    FinalLayer,
    FusedLinear,
    GatedMLP,
    PatchEmbedding,
    RMSNorm,
    TextPooling,
    TimestepEmbedding,
    gated_residual,
    modulated,
    rotary_angles,
    rotated,
)
from mochi_trainer.model.narrow import Linear
from mochi_trainer.model.params import DiTParams

Rotary = tuple[Tensor, Tensor]
Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values of one stream, each (B, S, A, P)."""


class DiT(nn.Module):
    """The denoiser: noisy latents, noise level and caption to the velocity z - noise.

    Latents in and out are *normalised* (`mochi_trainer.vae.normalise`).
    """

    def __init__(self, params: DiTParams) -> None:
        super().__init__()
        self.params = params
        width, text_width = params.visual_width, params.text_width
        self.x_embedder = PatchEmbedding(params.patch, params.latent_channels, width)
        self.t_embedder = TimestepEmbedding(params.timestep_width, width)
        self.t5_y_embedder = TextPooling(params.pooling_heads, params.text_feature_width, width)
        self.t5_yproj = nn.Linear(params.text_feature_width, text_width)
        self.pos_frequencies = nn.Parameter(torch.zeros(3, params.heads, params.head_width // 2))
        self.blocks = nn.ModuleList(
            Block(params, updates_text=index < params.depth - 1) for index in range(params.depth)
        )
        self.final_layer = FinalLayer(width, params.patch, params.latent_channels)

    def forward(
        self, x_BCTHW: Tensor, sigma_B: Tensor, text_BLK: Tensor, text_mask_BL: Tensor | None = None
    ) -> Tensor:
        """The velocity z - noise, shaped and typed like `x_BCTHW`.

        `sigma_B` is the share of noise, 1 is noise only; keep it in float32. `text_mask_BL` is True for valid tokens;
        None means that all are. The empty prompt has no valid token (L = 0, or a mask of False). Padding changes
        nothing. A mask costs one wait for the device before the blocks; inside them there is none.
        Raises ValueError when rows or columns do not divide into patches.
        """
        grid = self.grid(x_BCTHW)
        x_BND, y_BLE, c_BD, key_mask_BS = self.embedded(x_BCTHW, sigma_B, text_BLK, text_mask_BL)
        rotary = rotary_angles(self.pos_frequencies, *grid)
        for block in self.blocks:
            x_BND, y_BLE = block(x_BND, y_BLE, c_BD, rotary, key_mask_BS)
        return self.unpatched(self.final_layer(x_BND, c_BD), grid).to(x_BCTHW.dtype)

    def grid(self, x_BCTHW: Tensor) -> tuple[int, int, int]:
        """Frames, and rows and columns in patches. Raises ValueError as `forward`."""
        patch = self.params.patch
        frames, height, width = x_BCTHW.shape[2:]
        if height % patch or width % patch:
            raise ValueError(f"latent rows and columns must be multiples of {patch}, got {height} x {width}")
        return frames, height // patch, width // patch

    def embedded(
        self, x_BCTHW: Tensor, sigma_B: Tensor, text_BLK: Tensor, text_mask_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What the blocks are given, but for positions: x_BND, y_BLE, c_BD, and the mask of the keys."""
        dtype = self.x_embedder.proj.weight.dtype
        text_BLK, text_mask_BL = without_padding(text_BLK.to(dtype), text_mask_BL)
        c_BD = self.t_embedder(sigma_B, dtype) + self.t5_y_embedder(text_BLK, text_mask_BL)
        x_BND = self.x_embedder(x_BCTHW.to(dtype))
        y_BLE = self.t5_yproj(text_BLK)
        key_mask_BS = None if text_mask_BL is None else pad(text_mask_BL, (x_BND.shape[1], 0), value=True)
        return x_BND, y_BLE, c_BD, key_mask_BS

    def unpatched(self, out_BND: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The last layer's output as latents: (B, C, T, H, W)."""
        frames, rows, columns = grid
        patch = self.params.patch
        return rearrange(
            out_BND, "B (T H W) (p q C) -> B C T (H p) (W q)", T=frames, H=rows, W=columns, p=patch, q=patch
        )


def without_padding(text_BLK: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Drop the tokens that are padding in the whole batch, and the mask when nothing is left to mask."""
    if mask_BL is None:
        return text_BLK, None
    kept = mask_BL.any(dim=0).nonzero()[:, 0]
    text_BLK, mask_BL = text_BLK[:, kept], mask_BL[:, kept]
    return text_BLK, None if len(mask_BL) == 1 else mask_BL


class Block(nn.Module):
    """Joint attention, then a gated MLP for each stream. The last block does not update the text."""

    def __init__(self, params: DiTParams, *, updates_text: bool) -> None:
        super().__init__()
        width, text_width = params.visual_width, params.text_width
        self.updates_text = updates_text
        self.mod_x = Linear(width, 4 * width)
        self.mod_y = Linear(width, (4 if updates_text else 1) * text_width)
        self.attn = JointAttention(params, updates_text=updates_text)
        self.mlp_x = GatedMLP(width, params.mlp_width(width))
        if updates_text:
            self.mlp_y = GatedMLP(text_width, params.mlp_width(text_width))

    def forward(
        self, x_BND: Tensor, y_BLE: Tensor, c_BD: Tensor, rotary: Rotary, key_mask_BS: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        c_BD = silu(c_BD)
        scale_msa, gate_msa, scale_mlp, gate_mlp = self.mod_x(c_BD).chunk(4, dim=-1)
        text_scale_msa, *text_rest = self.mod_y(c_BD).chunk(4 if self.updates_text else 1, dim=-1)

        branch_x, branch_y = self.attn(
            modulated(x_BND, scale_msa), modulated(y_BLE, text_scale_msa), rotary, key_mask_BS
        )
        x_BND = gated_residual(x_BND, branch_x, gate_msa)
        x_BND = gated_residual(x_BND, self.mlp_x(modulated(x_BND, scale_mlp)), gate_mlp)
        if self.updates_text:
            text_gate_msa, text_scale_mlp, text_gate_mlp = text_rest
            y_BLE = gated_residual(y_BLE, branch_y, text_gate_msa)
            y_BLE = gated_residual(y_BLE, self.mlp_y(modulated(y_BLE, text_scale_mlp)), text_gate_mlp)
        return x_BND, y_BLE


def joint_attention(
    visual: Heads, text: Heads, rotary: Rotary, key_mask_BS: Tensor | None, backend: Backend | None
) -> tuple[Tensor, Tensor]:
    """What the visual and the text tokens, (B, N, A * P) and (B, L, A * P), take from all of both.

    Visual queries and keys are turned to their positions first. Tokens that `key_mask_BS` (B, S) leaves out give and take nothing.
    """
    (q_x, k_x, v_x), (q_y, k_y, v_y) = visual, text
    q_BSAP = torch.cat([rotated(q_x, *rotary), q_y], dim=1)
    k_BSAP = torch.cat([rotated(k_x, *rotary), k_y], dim=1)
    v_BSAP = torch.cat([v_x, v_y], dim=1)
    out_BSD = attention(q_BSAP, k_BSAP, v_BSAP, key_mask_BS, backend)
    if key_mask_BS is not None:
        out_BSD = out_BSD * key_mask_BS[..., None]
    out_x, out_y = out_BSD.tensor_split([q_x.shape[1]], dim=1)
    return out_x, out_y


class JointAttention(nn.Module):
    """Attention over visual and text tokens together, with projections of their own."""

    def __init__(self, params: DiTParams, *, updates_text: bool) -> None:
        super().__init__()
        width, text_width, head_width = params.visual_width, params.text_width, params.head_width
        self.head_width = head_width
        self.updates_text = updates_text
        self.backend: Backend | None = None  # set by mochi_trainer.model.attention_choice.use
        self.attend = (
            joint_attention  # another where ranks share a clip, set by mochi_trainer.parallel.context
        )
        self.qkv_x = FusedLinear(width, 3 * width, bias=False)
        self.qkv_y = FusedLinear(text_width, 3 * width, bias=False)
        self.q_norm_x = RMSNorm(head_width)
        self.k_norm_x = RMSNorm(head_width)
        self.q_norm_y = RMSNorm(head_width)
        self.k_norm_y = RMSNorm(head_width)
        self.proj_x = Linear(width, width)
        if updates_text:
            self.proj_y = Linear(width, text_width)

    def forward(
        self, x_BND: Tensor, y_BLE: Tensor, rotary: Rotary, key_mask_BS: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q_x, k_x, v_x = (self.per_head(part) for part in self.qkv_x(x_BND))
        q_y, k_y, v_y = (self.per_head(part) for part in self.qkv_y(y_BLE))
        visual = self.q_norm_x(q_x), self.k_norm_x(k_x), v_x
        text = self.q_norm_y(q_y), self.k_norm_y(k_y), v_y
        out_x, out_y = self.attend(visual, text, rotary, key_mask_BS, self.backend)
        return self.proj_x(out_x), self.proj_y(out_y) if self.updates_text else out_y

    def per_head(self, x_BSD: Tensor) -> Tensor:
        """The width split into heads."""
        return rearrange(x_BSD, "B S (A P) -> B S A P", P=self.head_width)
