"""Which activations of the forward pass are kept for the backward pass, and which are computed again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How blocks are recomputed."""

    keep_attention: bool = True
    """Whether a block that is computed again keeps its attention's output and logsumexp, the dearest part."""

    left_alone: int = 0
    """Blocks of which nothing is computed again: the last ones, whose activations are the first to go."""


LEAST = Policy(left_alone=1)
"""Least memory of those the trainer has: the last block's activations are there anyway when they are computed again at once."""

WHOLE_BLOCKS = Policy(keep_attention=False)
"""Of each block only the input is kept; the trainer does not do this, since it computes attention twice."""
