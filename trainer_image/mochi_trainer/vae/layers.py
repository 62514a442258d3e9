"""Causal convolution, residual block and temporal attention of the autoencoder.

Shapes: B batch; C channels; T, H, W frames, rows, columns. "Causal" means that a frame depends on no later one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, scaled_dot_product_attention, silu

PIXELS_PER_CALL = 2**12
"""Pixels whose attention over time is computed at once; CUDA limits the size of a batch."""

Size = tuple[int, int, int]


class CausalConv(nn.Conv3d):
    """Convolution padded with copies of the border: in time only before the first frame, in space on all sides."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size, stride: Size = (1, 1, 1)) -> None:
        super().__init__(in_channels, out_channels, kernel, stride)
        rows, columns = (kernel[1] - 1) // 2, (kernel[2] - 1) // 2
        self.border = (columns, columns, rows, rows, kernel[0] - 1, 0)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(pad(x_BCTHW, self.border, mode="replicate"))

    def after(self, past_BCTHW: Tensor, x_BCTHW: Tensor) -> Tensor:
        """The same for frames that come after `past`, which stands where `forward` pads in time."""
        frames = torch.cat([past_BCTHW, x_BCTHW], dim=2)
        return self.unpadded(pad(frames, (*self.border[:4], 0, 0), mode="replicate"))

    def unpadded(self, x_BCTHW: Tensor) -> Tensor:
        """The convolution of what already has its border."""
        return super().forward(x_BCTHW)

    def _conv_forward(self, x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One kernel for clips of any length: torch has another one for few numbers, which rounds differently."""
        plain = type(x_BCTHW) is Tensor and x_BCTHW.device.type == "cpu" and torch._C._has_mkldnn
        out: Tensor
        if plain and x_BCTHW.dtype == torch.float32:
            x_BCTHW = x_BCTHW.contiguous()
            out = torch.mkldnn_convolution(x_BCTHW, weight, bias, (0, 0, 0), self.stride, (1, 1, 1), 1)
        else:
            out = super()._conv_forward(x_BCTHW, weight, bias)
        return out


class FrameNorm(nn.GroupNorm):
    """Group norm of each frame by itself."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        frames = super().forward(rearrange(x_BCTHW, "B C T H W -> (B T) C H W"))
        return rearrange(frames, "(B T) C H W -> B C T H W", B=len(x_BCTHW))


class FrameSiLU(nn.SiLU):
    """SiLU that rounds alike in clips of any length.

    On a CPU torch has another formula for the last numbers of an array, those that fill no vector: so it gets one frame at
    a time.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if x_BCTHW.device.type != "cpu":
            return super().forward(x_BCTHW)
        return torch.stack([silu(frame.contiguous()) for frame in x_BCTHW.unbind(2)], dim=2)


class TemporalAttention(nn.Module):
    """Each pixel attends to its own past; queries and keys have length 1."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BTC).chunk(3, dim=-1)
        if x_BTC.shape[1] > 1:
            q, k, v = (rearrange(part, "B T (A P) -> B A T P", P=self.head_width) for part in (q, k, v))
            q, k = normalize(q, dim=-1), normalize(k, dim=-1)
            v = rearrange(scaled_dot_product_attention(q, k, v, is_causal=True), "B A T P -> B T (A P)")
        out: Tensor = self.out(v)
        return out


class AttentionBlock(nn.Module):
    """Norm and temporal attention, added to the input."""

    def __init__(self, width: int, groups: int, head_width: int) -> None:
        super().__init__()
        self.norm = FrameNorm(groups, width)
        self.attn = TemporalAttention(width, head_width)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW + self.attended(self.norm(x_BCTHW))

    def attended(self, normed_BCTHW: Tensor) -> Tensor:
        """What is added: the attention of each pixel over all frames of its normed activations."""
        rows, columns = normed_BCTHW.shape[-2:]
        pixels = rearrange(normed_BCTHW, "B C T H W -> (B H W) T C")
        out = torch.cat([self.attn(part) for part in torch.split(pixels, PIXELS_PER_CALL)])
        return rearrange(out, "(B H W) T C -> B C T H W", H=rows, W=columns)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and convolution, added to the input; then temporal attention where the encoder has it."""

    def __init__(self, width: int, groups: int, head_width: int | None = None) -> None:
        super().__init__()
        self.stack = nn.Sequential(
            FrameNorm(groups, width),
            FrameSiLU(),
            CausalConv(width, width, (3, 3, 3)),
            FrameNorm(groups, width),
            FrameSiLU(),
            CausalConv(width, width, (3, 3, 3)),
        )
        self.attn_block = nn.Identity() if head_width is None else AttentionBlock(width, groups, head_width)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.attn_block(x_BCTHW + self.stack(x_BCTHW))
        return out


def pointwise(function: Callable[[Tensor], Tensor], x_BCTHW: Tensor) -> Tensor:
    """Apply a function of the channels, such as a linear layer, to every pixel of every frame."""
    return rearrange(function(rearrange(x_BCTHW, "B C T H W -> B T H W C")), "B T H W C -> B C T H W")


def check_widths(widths: tuple[int, ...], groups: int, head_width: int | None = None) -> None:
    """Raise ValueError unless every width divides into norm groups, and every but the first into heads."""
    for width in widths:
        if width % groups:
            raise ValueError(f"every width must be a multiple of groups = {groups}, got {width}")
    for width in widths[1:]:
        if head_width is not None and width % head_width:
            raise ValueError(
                f"every width but the first must be a multiple of head_width = {head_width}, got {width}"
            )
