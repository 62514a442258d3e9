"""One seed in, named streams of random numbers out."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

Purpose = Literal[
    "adapter",
    "adapter-dropout",
    "augment",
    "caption-dropout",
    "held-out",
    "noise",
    "order",
    "order-of-sizes",
    "posterior",
    "sample",
    "sigma",
    "validation",
    "weights",
]
"""What the numbers are for; a new use takes a new purpose, so that older draws stay as they are."""


def stream(seed: int, purpose: Purpose, *, step: int = 0, rank: int = 0) -> torch.Generator:
    """A generator on the CPU whose draws depend on (seed, purpose, step, rank) only.

    So a resumed run draws what an uninterrupted one would, and one more user of random numbers shifts no other.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}/{rank}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
