"""What the numerical tests share: seeded weights, tiny sizes, the distance of two tensors, and true float64."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from demo.nano.initial import initialise
from mochi_trainer.model import DiT, DiTParams

TINY = DiTParams(
    depth=3,
    visual_width=96,
    text_width=48,
    heads=4,
    text_feature_width=64,
    timestep_width=256,
    mlp_multiple=128,
)
"""Widths for which the published rule and that of Diffusers give the same hidden sizes: 256 and 128."""


M = TypeVar("M", bound=nn.Module)


class Float64(TorchFunctionMode):
    """Lifts float32 that a library hard-codes to float64, so that rounding does not hide a difference."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        lifted = [torch.float64 if arg is torch.float32 else arg for arg in args]
        named = {key: torch.float64 if arg is torch.float32 else arg for key, arg in (kwargs or {}).items()}
        return func(*lifted, **named)


torch.set_num_threads(1)


def seeded(module: M, seed: int = 0, dtype: torch.dtype = torch.float64) -> M:
    """The module with weights drawn by name."""
    initialise(module, seed)
    return module.to(dtype).eval()


@functools.cache
def tiny_dit(dtype: torch.dtype = torch.float64) -> DiT:
    """A transformer with three blocks, shared: copy it before changing it."""
    return seeded(DiT(TINY), dtype=dtype)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def difference(ours: Tensor, reference: Tensor) -> float:
    """The norm of the difference over the norm of the reference."""
    return noted(float((ours - reference).double().norm() / reference.double().norm()))


def noted(value: float) -> float:
    """`value`, after telling the log: `pytest -o log_cli=true --log-cli-level=INFO` shows what was measured."""
    logging.getLogger("difference").info("%.3g", value)
    return value
