"""How fast each rank is by itself, before it has waited for another: a matrix product and a copy, in seconds.

Once they train together all ranks take the same time, that of the slowest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import torch

SLOW = 1.5
"""A rank is slow that takes so many times the median of all."""
REPEATS = 5
"""The fastest counts."""


class Speed(NamedTuple):
    """Seconds of one rank."""

    product: float
    """Of a matrix with another."""
    copy: float
    """From host memory to the device."""


def measured(device: torch.device) -> Speed:
    """This rank's, within a second; it waits for no other. On a CPU the work is small, since pods may share one."""
    gpu = device.type == "cuda"
    width, size = (8192, 256 * 2**20) if gpu else (256, 4 * 2**20)
    square = torch.ones(width, width, dtype=torch.bfloat16 if gpu else torch.float32, device=device)
    source = torch.ones(size, dtype=torch.uint8, pin_memory=gpu)
    target = torch.empty(size, dtype=torch.uint8, device=device)
    product = _fastest(lambda: square @ square, device)
    return Speed(product, _fastest(lambda: target.copy_(source), device))


def slow_ranks(speeds: Sequence[Speed]) -> list[str]:
    """What is to be told of the ranks that are slow, one line each."""
    found = []
    for name, what in (("product", "a matrix product"), ("copy", "a copy to the device")):
        seconds = [getattr(speed, name) for speed in speeds]
        middle = median(seconds)
        found += [
            f"rank {rank} takes {took / middle:.1f} times as long as the median of all ranks for {what}: "
            f"{took * 1000:.3g} ms against {middle * 1000:.3g} ms; all ranks wait for it in every step"
            for rank, took in enumerate(seconds)
            if took > SLOW * middle
        ]
    return found


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    return min(_seconds(work, device) for _ in range(REPEATS + 1))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
