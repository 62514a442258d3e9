"""Which projections can carry an adapter, and what each is called here, in the fused checkpoint and in Diffusers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

Target = Literal[
    "query",
    "key",
    "value",
    "output",
    "mlp_in",
    "mlp_out",
    "text_query",
    "text_key",
    "text_value",
    "text_output",
    "text_mlp_in",
    "text_mlp_out",
]


class Projection(NamedTuple):
    """One projection: rows of a layer of the fused checkpoint."""

    layer: str
    """Layer inside `blocks.{i}` that owns the weights."""
    part: str
    """Name of its rows."""
    diffusers: str
    """Layer inside `transformer_blocks.{i}` of Diffusers."""
    swapped: bool = False
    """Whether Diffusers stores the two halves of the rows the other way round."""


PARTS: dict[str, tuple[str, ...]] = {
    "attn.qkv_x": ("query", "key", "value"),
    "attn.proj_x": ("output",),
    "mlp_x.w1": ("hidden",),
    "mlp_x.w2": ("output",),
    "attn.qkv_y": ("query", "key", "value"),
    "attn.proj_y": ("output",),
    "mlp_y.w1": ("hidden",),
    "mlp_y.w2": ("output",),
}
"""Layers of a block and their equal parts, in the order of their rows."""

PROJECTIONS: dict[Target, Projection] = {
    "query": Projection("attn.qkv_x", "query", "attn1.to_q"),
    "key": Projection("attn.qkv_x", "key", "attn1.to_k"),
    "value": Projection("attn.qkv_x", "value", "attn1.to_v"),
    "output": Projection("attn.proj_x", "output", "attn1.to_out.0"),
    "mlp_in": Projection("mlp_x.w1", "hidden", "ff.net.0.proj", swapped=True),
    "mlp_out": Projection("mlp_x.w2", "output", "ff.net.2"),
    "text_query": Projection("attn.qkv_y", "query", "attn1.add_q_proj"),
    "text_key": Projection("attn.qkv_y", "key", "attn1.add_k_proj"),
    "text_value": Projection("attn.qkv_y", "value", "attn1.add_v_proj"),
    "text_output": Projection("attn.proj_y", "output", "attn1.to_add_out"),
    "text_mlp_in": Projection("mlp_y.w1", "hidden", "ff_context.net.0.proj", swapped=True),
    "text_mlp_out": Projection("mlp_y.w2", "output", "ff_context.net.2"),
}
"""Every target. The last block has no `text_output`, `text_mlp_in` and `text_mlp_out`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraParams:
    """The shape of the adapters."""

    rank: int = 16
    """Width of the two adapter matrices."""

    alpha: float = 16.0
    """The adapter's output is scaled by `alpha / rank`, or by `alpha / sqrt(rank)` with `rslora`."""

    dropout: float = 0.0
    """Share of the adapter's input that is dropped while training."""

    targets: tuple[Target, ...] = ("query", "value")
    """Projections with an adapter; the plain names are those of the visual stream."""

    rslora: bool = False
    """Rank-stabilised scale (https://arxiv.org/abs/2312.03732)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be at least 1, got {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"lora.alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be at least 0 and below 1, got {self.dropout}")
        unknown = [target for target in self.targets if target not in PROJECTIONS]
        if unknown or not self.targets:
            raise ValueError(
                f"lora.targets must be some of {', '.join(PROJECTIONS)}, got {list(self.targets)}"
            )

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
