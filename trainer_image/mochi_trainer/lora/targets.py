"""Which projections can carry an adapter, and what each is called here, in the fused checkpoint and in Diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Target = Literal["query", "key", "value", "output", "text_query", "text_key", "text_value", "text_output"]


class Projection(NamedTuple):
    """One projection: rows of a layer of the fused checkpoint."""

    layer: str
    """Layer inside `blocks.{i}.attn` that owns the weights."""
    part: str
    """Name of its rows."""
    diffusers: str
    """Layer inside `transformer_blocks.{i}.attn1` of Diffusers."""


PARTS: dict[str, tuple[str, ...]] = {
    "qkv_x": ("query", "key", "value"),
    "proj_x": ("output",),
    "qkv_y": ("query", "key", "value"),
    "proj_y": ("output",),
}
"""Layers of the attention and their equal parts, in the order of their rows."""

PROJECTIONS: dict[Target, Projection] = {
    "query": Projection("qkv_x", "query", "to_q"),
    "key": Projection("qkv_x", "key", "to_k"),
    "value": Projection("qkv_x", "value", "to_v"),
    "output": Projection("proj_x", "output", "to_out.0"),
    "text_query": Projection("qkv_y", "query", "add_q_proj"),
    "text_key": Projection("qkv_y", "key", "add_k_proj"),
    "text_value": Projection("qkv_y", "value", "add_v_proj"),
    "text_output": Projection("proj_y", "output", "to_add_out"),
}
"""Every target. The last block has no `text_output`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraParams:
    """The shape of the adapters."""

    rank: int = 16
    """Width of the two adapter matrices."""

    alpha: float = 16.0
    """The adapter's output is scaled by `alpha / rank`."""

    dropout: float = 0.0
    """Share of the adapter's input that is dropped while training."""

    targets: tuple[Target, ...] = ("query", "value")
    """Projections with an adapter; the plain names are those of the visual stream."""

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
        return self.alpha / self.rank
