"""Costs of the published model's step, from traces of a few blocks, and the floor that they are compared with."""

from __future__ import annotations

from typing import Literal

from mochi_trainer.model import DiTParams
from mochi_trainer.plan import Traced, traced_by_few

Mode = Literal["lora", "full"]
BLOCKS = 48
PUBLISHED = DiTParams()


def costs(frames: int, mode: Mode, *, world: int = 1, left_alone: int = 0) -> Traced:
    """Of a step of the published model with 256 text tokens at 480 x 848."""
    return traced_by_few(PUBLISHED, frames, mode, world=world, left_alone=left_alone)


def floor(frames: int) -> tuple[float, float]:
    """Operations of the matrices and of the attention of one forward pass: L and A."""
    visual = ((frames - 1) // 6 + 1) * 1590
    text = PUBLISHED.text_tokens
    matrices = 2 * BLOCKS * visual * (4 * 3072 * 3072 + 3 * 3072 * 8192)
    matrices += 2 * (BLOCKS - 1) * text * (3 * 1536 * 3072 + 3072 * 1536 + 3 * 1536 * 4096)
    return matrices, 4 * (visual + text) ** 2 * 3072 * BLOCKS


def attention_kept(frames: int, mode: Mode) -> float:
    """The operations of a step that computes everything again but its attention."""
    matrices, attention = floor(frames)
    return (3 if mode == "lora" else 4) * matrices + 3.5 * attention
