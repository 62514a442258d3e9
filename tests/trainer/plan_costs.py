"""Costs of the published model's step, from two traces of a few blocks: all blocks but the last are alike.

Operations are exactly linear in the number of blocks of a kind; so is the peak, as long as it stands at the same place of the
step, which `tests/bench/step_costs.py` shows by tracing all 48.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mochi_trainer.model import DiTParams
from mochi_trainer.plan import Traced, trace_step

Mode = Literal["lora", "full"]
BLOCKS = 48
FEW = 2
PUBLISHED = DiTParams()


class Costs(NamedTuple):
    """Of one rank."""

    flops: float
    peak: float
    resident: float


def costs(frames: int, mode: Mode, *, world: int = 1, left_alone: int = 0) -> Costs:
    """Of a step of the published model with 256 text tokens at 480 x 848."""

    def traced(depth: int, alone: int) -> Traced:
        return trace_step(DiTParams(depth=depth), frames, mode, world=world, left_alone=alone)

    base, again = traced(FEW, 0), traced(FEW + 1, 0)
    kept = traced(FEW + 1, 1) if left_alone else base

    def whole(field: str) -> float:
        few, one_more, alone = (float(getattr(each, field)) for each in (base, again, kept))
        return few + (BLOCKS - FEW - left_alone) * (one_more - few) + left_alone * (alone - few)

    return Costs(whole("flops"), whole("peak_bytes"), whole("resident_bytes"))


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
