"""Recomputation: keep only the inputs of each block for the backward pass and compute the rest again."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from mochi_trainer.model import DiT


def recompute(model: DiT) -> None:
    """Let each block's activations be computed again in the backward pass, in place; names and results stay the same.

    Call before sharding, so that a block's weights are gathered once for both.
    """
    for block in model.blocks:
        forward: Any = partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = forward
