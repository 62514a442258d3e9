"""The same numbers each time on a GPU too, by choice: there the fastest kernels add in an order that differs from call to call."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

import torch

from mochi_trainer.errors import InvalidInputError

log = logging.getLogger(__name__)

VARIABLE = "MOCHI_DETERMINISTIC"
"""Environment variable: 1 asks for it, 0 or nothing does not."""
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACE = ":4096:8"
"""Memory with which cuBLAS gives the same result on every stream: 8 pieces of 4 MiB."""


@contextmanager
def determinism(environ: MutableMapping[str, str] = os.environ) -> Iterator[bool]:
    """For the length of the block torch uses deterministic kernels only, if the environment asks for it; gives whether it does.

    Enter it before anything is computed on the GPU. What has no such kernel raises RuntimeError when it is called. Raises
    InvalidInputError for another value.
    """
    value = environ.get(VARIABLE, "") or "0"
    if value not in {"0", "1"}:
        raise InvalidInputError(f"{VARIABLE} must be 0 or 1, got {value}")
    if value == "0":
        yield False
        return
    environ.setdefault(CUBLAS, WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    log.info("deterministic kernels only: slower on a GPU, and the same numbers each time")
    try:
        yield True
    finally:
        torch.use_deterministic_algorithms(before)
