"""Recomputation: a block keeps its inputs and what its attention gave, and computes the rest again in the backward pass.

Attention is more than half of the work, and its output and logsumexp are about as large as the block's input; the rest is
matrix products of one pass, whose results are many times larger.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.model import DiT

VARIABLE = "MOCHI_BLOCKS_LEFT_ALONE"
"""Environment variable: how many blocks keep all that they computed."""

KEPT = [torch.ops.mochi.attention.default]
"""Operators that are not computed again."""


def recompute(model: DiT, *, left_alone: int = 0) -> None:
    """Let the blocks, all but the last `left_alone`, be computed again, in place; names and results stay the same.

    The last ones, since theirs are the first activations to be freed: nothing is computed again while they live. Call before
    sharding, so that a block's weights are gathered once for both. Raises InvalidInputError when there are fewer blocks.
    """
    depth = len(model.blocks)
    if not 0 <= left_alone <= depth:
        raise InvalidInputError(
            f"{VARIABLE} must be from 0 to the {depth} blocks of the model, got {left_alone}"
        )
    for block in model.blocks[: depth - left_alone]:
        forward: Any = partial(checkpoint, block.forward, use_reentrant=False, context_fn=keeping_attention())
        block.forward = forward


def keeping_attention() -> Callable[[], Any]:
    """What `checkpoint` takes as `context_fn`."""
    return partial(create_selective_checkpoint_contexts, KEPT)
