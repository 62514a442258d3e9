"""The arithmetic of the transformer as free functions, and the small modules that own parameters.

Shapes are suffixes of names: B batch; C latent channels; T, H, W latent frames, rows, columns; N visual tokens; L text
tokens; S = N + L; D visual width; E text width; K width of the text features; A heads; P width of a head; R = P / 2.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad, scaled_dot_product_attention, silu

from mochi_trainer.model.narrow import Linear

NORM_EPS = 1e-6
"""Epsilon of the norms without weights."""

QK_NORM_EPS = 1e-5
"""Epsilon of the norms of queries and keys."""

TIMESTEP_SCALE = 1000.0
MAX_PERIOD = 10_000.0
BASE_AREA = 192 * 192
"""Positions are scaled so that the patch grid of any size covers this area."""


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or in its own type when that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_normalised(x: Tensor, eps: float = NORM_EPS) -> Tensor:
    """`x` over its root mean square along the last dimension; float32 or wider."""
    x = wide(x)
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


def modulated(x_BSD: Tensor, scale_BD: Tensor) -> Tensor:
    """The pre-norm of a branch: normalised and scaled by 1 + scale."""
    return (rms_normalised(x_BSD) * (1 + wide(scale_BD)[:, None])).to(x_BSD.dtype)


def gated_residual(x_BSD: Tensor, branch_BSD: Tensor, gate_BD: Tensor) -> Tensor:
    """`x` plus the normalised branch times the tanh of its gate (a sandwich norm)."""
    return x_BSD + (rms_normalised(branch_BSD) * wide(gate_BD).tanh()[:, None]).to(x_BSD.dtype)


def timestep_features(sigma_B: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of t = 1 - sigma at `width / 2` frequencies: (B, width), float32 or wider."""
    half = width // 2
    t_B = wide(1 - wide(sigma_B)) * TIMESTEP_SCALE
    steps = torch.arange(half, dtype=t_B.dtype, device=t_B.device)
    angles = t_B[:, None] * torch.exp(-math.log(MAX_PERIOD) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def bin_centres(count: int, scale: float, like: Tensor) -> Tensor:
    """Centres of `count` equal bins over [-count * scale / 2, count * scale / 2]."""
    edges = torch.linspace(
        -count * scale / 2, count * scale / 2, count + 1, dtype=like.dtype, device=like.device
    )
    return (edges[:-1] + edges[1:]) / 2


def rotary_angles(frequencies_3AR: Tensor, frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (N, A, R), of the learned mixture of frame, row and column position of every token.

    `rows` and `columns` count patches. The frame index is not scaled; rows and columns are, to a fixed area.
    """
    frequencies_3AR = wide(frequencies_3AR)
    scale = math.sqrt(BASE_AREA / (rows * columns))
    t = torch.arange(frames, dtype=frequencies_3AR.dtype, device=frequencies_3AR.device)
    h = bin_centres(rows, scale, frequencies_3AR)
    w = bin_centres(columns, scale, frequencies_3AR)
    grid = torch.meshgrid(t, h, w, indexing="ij")
    positions_N3 = torch.stack(grid, dim=-1).reshape(-1, 3)
    angles_NAR = torch.einsum("nd,dar->nar", positions_N3, frequencies_3AR)
    return angles_NAR.cos(), angles_NAR.sin()


def rotated(x_BNAP: Tensor, cos_NAR: Tensor, sin_NAR: Tensor) -> Tensor:
    """Each interleaved pair (even, odd) of a head turned by its token's angle; computed in float32 or wider."""
    even, odd = wide(x_BNAP[..., 0::2]), wide(x_BNAP[..., 1::2])
    turned = torch.stack([even * cos_NAR - odd * sin_NAR, even * sin_NAR + odd * cos_NAR], dim=-1)
    return turned.flatten(-2).to(x_BNAP.dtype)


def pooled(q_BSAP: Tensor, k_BSAP: Tensor, v_BSAP: Tensor, key_mask_BS: Tensor | None) -> Tensor:
    """Softmax attention to every valid token, for a handful of queries: (B, S, A * P). No mask: all are valid.

    The blocks have an operator of their own (`mochi_trainer.model.attention`); here heads may be 512 wide, which the
    fast kernels do not take, and the work is nothing.
    """
    q, k, v = (rearrange(x, "B S A P -> B A S P") for x in (q_BSAP, k_BSAP, v_BSAP))
    mask = None if key_mask_BS is None else key_mask_BS[:, None, None]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(out, "B A S P -> B S (A P)")


class FusedLinear(Linear):
    """Query, key and value as one matrix product, returned as three tensors.

    `mochi_trainer.lora` puts a layer in its place that computes the three by themselves, with adapters.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # nn.Linear returns one tensor
        return super().forward(x).chunk(3, dim=-1)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight, for queries and keys."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (rms_normalised(x, QK_NORM_EPS) * wide(self.weight)).to(x.dtype)


class GatedMLP(nn.Module):
    """SwiGLU: the first half of `w1` passes SiLU, the second stays linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = Linear(width, 2 * hidden, bias=False)
        self.w2 = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, linear = self.w1(x).chunk(2, dim=-1)
        out: Tensor = self.w2(silu(gate) * linear)
        return out


class PatchEmbedding(nn.Module):
    """Spatial patches to tokens, in the order frames, rows, columns."""

    def __init__(self, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        frames = rearrange(x_BCTHW, "B C T H W -> (B T) C H W")
        tokens: Tensor = rearrange(self.proj(frames), "(B T) D H W -> B (T H W) D", B=len(x_BCTHW))
        return tokens


class TimestepEmbedding(nn.Module):
    """The noise level as a condition of the visual width."""

    def __init__(self, timestep_width: int, width: int) -> None:
        super().__init__()
        self.timestep_width = timestep_width
        self.mlp = nn.Sequential(nn.Linear(timestep_width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma_B: Tensor, dtype: torch.dtype) -> Tensor:
        out: Tensor = self.mlp(timestep_features(sigma_B, self.timestep_width).to(dtype))
        return out


class TextPooling(nn.Module):
    """One vector for the whole caption: the mean of its tokens attends to them and to itself."""

    def __init__(self, heads: int, feature_width: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_kv = nn.Linear(feature_width, 2 * feature_width)
        self.to_q = nn.Linear(feature_width, feature_width)
        self.to_out = nn.Linear(feature_width, width)

    def forward(self, text_BLK: Tensor, mask_BL: Tensor | None) -> Tensor:
        mean_B1K = masked_mean(text_BLK, mask_BL)
        tokens = torch.cat([mean_B1K, text_BLK], dim=1)
        k, v = rearrange(self.to_kv(tokens), "B S (two A P) -> two B S A P", two=2, A=self.heads)
        q = rearrange(self.to_q(mean_B1K), "B S (A P) -> B S A P", A=self.heads)
        key_mask = None if mask_BL is None else pad(mask_BL, (1, 0), value=True)
        out: Tensor = self.to_out(pooled(q, k, v, key_mask))
        return out[:, 0]


def masked_mean(text_BLK: Tensor, mask_BL: Tensor | None) -> Tensor:
    """Mean over the valid tokens, (B, 1, K); zero when there are none."""
    if mask_BL is None:
        return text_BLK.sum(dim=1, keepdim=True) / max(1, text_BLK.shape[1])
    weights = mask_BL.to(text_BLK.dtype)[..., None]
    return (text_BLK * (weights / weights.sum(dim=1, keepdim=True).clamp(min=1))).sum(dim=1, keepdim=True)


class FinalLayer(nn.Module):
    """The last norm, shifted and scaled by the condition, and the projection to the pixels of a patch."""

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.mod = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, patch * patch * channels)

    def forward(self, x_BND: Tensor, condition_BD: Tensor) -> Tensor:
        shift, scale = self.mod(silu(condition_BD))[:, None].chunk(2, dim=-1)
        x_BND = layer_norm(x_BND, x_BND.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift
        out: Tensor = self.linear(x_BND)
        return out
