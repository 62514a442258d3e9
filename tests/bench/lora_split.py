"""What splitting the query/key/value product for adapters costs: `python tests/bench/lora_split.py`.

The layer with frozen weights, float32: the fused product against the three that carry adapters, without the adapters
themselves. Both take turns in one process with one thread, and CPU time is counted, so that neighbours on the machine
count less. A ratio of 1 means that splitting is free.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mochi_trainer.lora.split import SplitLinear
from mochi_trainer.model.layers import FusedLinear

SHAPES = ((256, 768), (1024, 768), (256, 1536), (256, 3072))
"""Tokens and width; 3072 is the published width."""

WARM_UP = 2
REPEATS = 9


def _forward(layer: torch.nn.Module, x: Tensor) -> float:
    began = time.process_time()
    layer(x)
    return time.process_time() - began


def _backward(layer: torch.nn.Module, x: Tensor) -> float:
    outputs = layer(x)
    gradients = [torch.ones_like(output) for output in outputs]
    began = time.process_time()
    torch.autograd.backward(outputs, gradients)
    seconds = time.process_time() - began
    x.grad = None
    return seconds


def _turns(
    fused: torch.nn.Module,
    split: torch.nn.Module,
    x: Tensor,
    timed: Callable[[torch.nn.Module, Tensor], float],
) -> str:
    for _ in range(WARM_UP):
        timed(fused, x), timed(split, x)
    pairs = [(timed(fused, x), timed(split, x)) for _ in range(REPEATS)]
    one, three = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    low, _, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    return f"{one:9.2f} ms {three:9.2f} ms   {three / one:5.2f}   {low:.2f} to {high:.2f}"


def main() -> None:
    """Print one line for each shape and direction."""
    torch.set_num_threads(1)
    sys.stdout.write(
        f"medians of {REPEATS} turns after {WARM_UP}, 1 thread, CPU time, torch {torch.__version__}\n"
    )
    sys.stdout.write("tokens width  pass          fused        split   ratio   middle half of the ratios\n")
    for tokens, width in SHAPES:
        fused = FusedLinear(width, 3 * width, bias=False).requires_grad_(False)
        split = SplitLinear(fused, ("query", "key", "value"))
        x = torch.randn(1, tokens, width, requires_grad=True)
        for name, timed in (("forward", _forward), ("backward", _backward)):
            sys.stdout.write(f"{tokens:6} {width:5}  {name:<8} {_turns(fused, split, x, timed)}\n")
    sys.stdout.write("again: python tests/bench/lora_split.py\n")


if __name__ == "__main__":
    main()
