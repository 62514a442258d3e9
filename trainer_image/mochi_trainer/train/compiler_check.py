"""The compiler's check at start: blocks as the run trains them, compiled and operator by operator, beside each other.

Two blocks in the published widths, one that is computed again and the last one, with drawn numbers and a small clip. Which
kernels a compiler makes follows from widths, types and adapters; the number of tokens only says how often they run.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.model.layers import rotary_angles
from mochi_trainer.model.narrow import narrow
from mochi_trainer.parallel.compilation import compile_blocks
from mochi_trainer.parallel.context import Context, share_heads
from mochi_trainer.parallel.group import Group
from mochi_trainer.train.composition import Adapters, Choices, unsharded

BOUNDS: Mapping[torch.dtype, float] = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference allowed, of an output or of the gradient of an input or a matrix, as a share of its norm."""

GRIDS = ((2, 8, 12), (1, 6, 10))
"""Frames, rows and columns of patches: of the clip, and of another one where clips have several sizes."""
LENGTHS = (7, 0)
"""Text tokens."""
_SEED = 20_250_117
_FLOOR = 1e-6
"""Norms below this share of the largest one are taken to be so large: what is next to nothing is nothing but rounding."""


def trouble(
    params: DiTParams,
    choices: Choices,
    *,
    adapters: Adapters | None,
    device: torch.device,
    context: Context | None = None,
    bounds: Mapping[torch.dtype, float] = BOUNDS,
) -> str:
    """Why `choices.compiler` cannot be used, in one line; empty when it computes forward and backward what is computed without.

    A graph that breaks, whatever the compiler raises, a missing C compiler, and numbers further apart than the bound of
    `choices.compute` count. `context` is one in which this rank waits for no other (`mochi_trainer.parallel.context.alone`). Nothing of
    it stays in memory, and torch's generators are as before. Call before the model is there.
    """
    assert choices.compiler is not None, "nothing is compiled"
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return _trouble(params, choices, adapters, device, context, bounds[choices.compute])
    except Exception as error:  # whatever compilers raise
        return f"{type(error).__name__}: {_first_line(error)}"
    finally:
        torch._dynamo.reset()  # else the clip's size counts as one of the run's
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]


def _trouble(
    params: DiTParams,
    choices: Choices,
    adapters: Adapters | None,
    device: torch.device,
    context: Context | None,
    bound: float,
) -> str:
    plain = replace(choices, compiler=None, left_alone=1, swapped=0)
    model = unsharded(replace(params, depth=2), plain, adapters=adapters, group=Group())
    if context is not None:
        share_heads(model, context)
    _fill(model, choices, adapters, device)
    cases = [
        _Case(model, grid, length, choices.compute, device, context)
        for grid in (GRIDS if choices.many_sizes else GRIDS[:1])
        for length in LENGTHS
    ]
    expected = [case.results(model) for case in cases]
    compile_blocks(model, choices.compiler or "", many_sizes=choices.many_sizes)
    for case, theirs in zip(cases, expected, strict=True):
        worst, name = _worst(case.results(model), theirs)
        if not worst <= bound:
            return f"{name} differs by {worst:.1e} of its norm, more than {bound:.0e}, with {case}"
    return ""


def _fill(model: DiT, choices: Choices, adapters: Adapters | None, device: torch.device) -> None:
    """Numbers for the blocks, on `device`; the other layers stay without memory."""
    if adapters is None:  # FSDP2 gathers them so
        model.blocks.to(choices.compute)
    model.blocks.to_empty(device=device)
    draws = torch.Generator(device).manual_seed(_SEED)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=draws)
    if adapters is not None and choices.base is not None:
        narrow(model.blocks, choices.base)
    # of dropout's masks a compiler draws its own
    model.train(adapters is None or not adapters.params.dropout)


class _Case:
    """A clip, a caption, and the gradients of what the blocks make of them."""

    def __init__(
        self,
        model: DiT,
        grid: tuple[int, int, int],
        length: int,
        dtype: torch.dtype,
        device: torch.device,
        context: Context | None,
    ) -> None:
        self._count, self._length = math.prod(grid), length
        params, draws = model.params, torch.Generator(device).manual_seed(_SEED + self._count + length)

        def drawn(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(shape, generator=draws, dtype=dtype, device=device)

        own = self._count if context is None else -(-self._count // context.size)
        heads = params.heads if context is None else params.heads // context.size
        frequencies = drawn(3, heads, params.head_width // 2, dtype=torch.float32)
        self._rotary = rotary_angles(frequencies, *grid)
        self._inputs = drawn(1, own, params.visual_width), drawn(1, length, params.text_width)
        self._condition = drawn(1, params.visual_width)
        self._gradients = [drawn(*each.shape) for each in self._inputs]

    def __str__(self) -> str:
        return f"{self._count} visual and {self._length} text tokens"

    def results(self, model: DiT) -> dict[str, Tensor]:
        """By name: both outputs, and the gradients of the inputs and of all that is trained; zero where there is none."""
        trained = {name: p for name, p in model.blocks.named_parameters() if p.requires_grad}
        x, y, c = (each.clone().requires_grad_() for each in (*self._inputs, self._condition))
        wanted = {"of the visual tokens": x, "of the text tokens": y, "of the condition": c, **trained}
        for block in model.blocks:
            x, y = block(x, y, c, self._rotary, None)
        found = torch.autograd.grad(
            (x, y), list(wanted.values()), self._gradients, allow_unused=True, materialize_grads=True
        )
        gradients = {f"the gradient {name}": each for name, each in zip(wanted, found, strict=True)}
        return {"the visual output": x.detach(), "the text output": y.detach(), **gradients}


def _worst(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest difference as a share of the norm, and of what; NaN is larger than any."""
    norms = {name: float(each.double().norm()) for name, each in theirs.items()}
    largest = max(norms.values())
    found = {
        name: float((ours[name].double() - each.double()).norm()) / max(norms[name], _FLOOR * largest)
        for name, each in theirs.items()
        if each.numel()
    }
    return max(((math.inf if math.isnan(share) else share), name) for name, share in found.items())
