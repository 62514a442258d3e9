"""AdamW and its learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from mochi_api.runfile import LEARNING_RATE_LEFT_OUT
from mochi_api.spec import TrainingSpec
from mochi_trainer.parallel.sharding import REPLICATED


def adamw(parameters: Mapping[str, nn.Parameter], spec: TrainingSpec) -> torch.optim.AdamW:
    """The optimizer of the named parameters; weights decay, biases, norms and position frequencies do not.

    Each group is updated by one kernel, of this rank's rows; it takes either sharded or whole parameters.
    """
    whole = [p for name, p in parameters.items() if name == REPLICATED]
    decayed = [p for name, p in parameters.items() if p.ndim >= 2 and name != REPLICATED]
    kept = [p for name, p in parameters.items() if p.ndim < 2 and name != REPLICATED]
    groups = [
        {"params": decayed, "weight_decay": float(spec.weight_decay)},
        {"params": kept, "weight_decay": 0.0},
        {"params": whole, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=_peak(spec), fused=True)


def learning_rate(step: int, spec: TrainingSpec) -> float:
    """The rate of step `step` (from 1): a straight rise to the peak, then a half cosine towards 0, or constant."""
    peak, warmup = _peak(spec), spec.warmup_steps or 0
    if step <= warmup:
        return peak * step / warmup
    if spec.schedule == "Constant":
        return peak
    progress = (step - warmup) / (spec.steps - warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def _peak(spec: TrainingSpec) -> float:
    return float(spec.learning_rate or LEARNING_RATE_LEFT_OUT)
