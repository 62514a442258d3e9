"""The choice of the attention kernel at start, by a check of its output and gradients on the run's own shapes.

A kernel that returns NaN or wrong gradients for one sequence length is a known kind of defect, and which kernel torch
prefers differs between its versions: so a kernel is named, measured against float32 (float64 for float64), and logged.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from mochi_trainer.errors import DeviceUnavailableError, InvalidInputError
from mochi_trainer.model.attention import attend, attend_backward
from mochi_trainer.model.attention_kernels import Backend, math_backward, math_forward
from mochi_trainer.model.dit import DiT

log = logging.getLogger(__name__)

VARIABLE = "MOCHI_ATTENTION"
"""Environment variable that names the backend to try first."""

BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.05}
"""Largest difference allowed for numbers of a type; see `Differences`."""

ON_GPU = (Backend.FLASH_3, Backend.CUDNN, Backend.FLASH_2, Backend.EFFICIENT)
ON_CPU = (Backend.CPU,)
NOT_DETERMINISTIC = (Backend.FLASH_3, Backend.CUDNN)
"""Their backward pass adds in another order each time, whatever torch is told."""
_SEED = 20_240_917
_INSTALL = (
    "Use a GPU of compute capability 8.0 or newer with a driver for the CUDA version of the image's torch, or install "
    f"FlashAttention-3 (flash_attn_interface) in the image; {VARIABLE}=math trains without a kernel, about eight times slower."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What attention is called with."""

    batch: int
    tokens: int
    """Visual and text tokens together (S)."""
    heads: int
    width: int
    """Of a head (P)."""
    masked: bool = False
    """Whether the last sequence of the batch is padded."""

    def __str__(self) -> str:
        mask = ", masked" if self.masked else ""
        return f"batch {self.batch}, {self.tokens} tokens, {self.heads} heads of {self.width}{mask}"


@dataclass(frozen=True, slots=True)
class Differences:
    """How far a kernel is from float32, as the worst token's error over the mean size of a token (root mean square).

    One wrong row in a long sequence counts as much as in a short one; NaN stays NaN.
    """

    out: float
    query: float = 0.0
    key: float = 0.0
    value: float = 0.0

    @property
    def worst(self) -> float:
        """The largest of them; NaN when one is NaN."""
        values = astuple(self)
        return math.nan if any(math.isnan(value) for value in values) else max(values)

    def __str__(self) -> str:
        return f"out {self.out:.1e}, dq {self.query:.1e}, dk {self.key:.1e}, dv {self.value:.1e}"


def choose(
    shapes: Sequence[Shape],
    device: torch.device,
    dtype: torch.dtype,
    *,
    wanted: str | None = None,
    gradients: bool = True,
    bounds: Mapping[torch.dtype, float] = BOUNDS,
    environ: Mapping[str, str] = os.environ,
    agreed: Callable[[bool], bool] = bool,
    deterministic: bool = False,
) -> Backend:
    """The first backend that computes every one of `shapes` within its bound; on a CPU MATH, the reference, if none does.

    `wanted`, or else the environment variable MOCHI_ATTENTION, is tried first, and MATH is used where it is named. `gradients`
    False checks the output only, for sampling. `agreed` says whether a backend that is good here is good on all ranks; each
    of them asks it as often. `deterministic` leaves out those that never are. Call it before the model takes the memory.
    Raises InvalidInputError for an unknown name, or one that is left out, and DeviceUnavailableError when a GPU has no
    backend: MATH would take about eight times as long.
    """
    left_out = NOT_DETERMINISTIC if deterministic else ()
    candidates = [each for each in (ON_GPU if device.type == "cuda" else ON_CPU) if each not in left_out]
    name = wanted or environ.get(VARIABLE)
    if name:
        first = _named(name)
        if first in left_out:
            raise InvalidInputError(
                f"{VARIABLE} must be a deterministic backend where MOCHI_DETERMINISTIC is 1, got {name}"
            )
        candidates = [first, *(each for each in candidates if each != first)]
    problems: list[str] = []
    for backend in candidates:
        if backend == Backend.MATH:
            return _reference(device, dtype)
        problem = _problem(backend, shapes, device, dtype, bounds[dtype], gradients=gradients)
        if agreed(problem is None):
            return backend
        problems.append(f"{backend}: {problem or 'another rank cannot use it'}")
    if device.type == "cuda":
        raise DeviceUnavailableError(
            f"no attention kernel can be used on this GPU in {dtype}: {'; '.join(problems)}", action=_INSTALL
        )
    return _reference(device, dtype)


def _reference(device: torch.device, dtype: torch.dtype) -> Backend:
    log.info("attention: math, the reference, on %s in %s", device.type, dtype)
    return Backend.MATH


def use(model: DiT, backend: Backend) -> None:
    """Let every block of `model` compute its attention with `backend`, in place."""
    for block in model.blocks:
        block.attn.backend = backend  # type: ignore[union-attr]


def _named(name: str) -> Backend:
    try:
        return Backend(name)
    except ValueError as error:
        raise InvalidInputError(f"{VARIABLE} must be one of {', '.join(Backend)}, got {name}") from error


def _problem(
    backend: Backend,
    shapes: Sequence[Shape],
    device: torch.device,
    dtype: torch.dtype,
    bound: float,
    *,
    gradients: bool,
) -> str | None:
    """Why `backend` cannot be used, which is logged as a warning; None when it can."""
    for shape in shapes:
        try:
            found = differences(backend, shape, device, dtype, gradients=gradients)
        # of a library of another release, or a kernel that refuses the shape, type or device
        except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            log.warning("attention: %s cannot be used: %s: %s", backend, type(error).__name__, error)
            return str(error).partition("\n")[0] or type(error).__name__
        if not found.worst <= bound:
            log.warning(
                "attention: %s differs from float32 by %.1e, more than %.1e, with %s (%s)",
                backend, found.worst, bound, shape, found,
            )  # fmt: skip
            return f"differs from float32 by {found.worst:.1e}, more than {bound:.1e}, with {shape}"
        log.info("attention: %s on %s in %s, %s: %s", backend, device.type, dtype, shape, found)
    return None


def differences(
    backend: Backend, shape: Shape, device: torch.device, dtype: torch.dtype, *, gradients: bool = True
) -> Differences:
    """Run `backend` on random numbers of `shape` and compare the first and the last head with float32.

    Raises what the backend raises.
    """
    q, k, v, grad = _drawn(shape, device, dtype)
    mask = _mask(shape, device)
    out, logsumexp = attend(q, k, v, mask, backend.value)
    ours = [out]
    if gradients:
        ours += attend_backward(grad, q, k, v, out, logsumexp, mask, backend.value)
    worst: dict[int, float] = {}
    for head in {0, shape.heads - 1}:
        exact = _exact([x[:, :, head, None] for x in (q, k, v, grad)], mask, gradients)
        for index, (each, expected) in enumerate(zip(ours, exact, strict=False)):
            error = _error(each[:, :, head, None], expected)
            worst[index] = math.nan if math.isnan(error) else max(worst.get(index, 0.0), error)
    return Differences(*worst.values())


def _drawn(shape: Shape, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """Queries, keys, values and the gradient of the output: standard normal, as normed queries and keys nearly are."""
    generator = torch.Generator(device).manual_seed(_SEED)
    size = (shape.batch, shape.tokens, shape.heads, shape.width)
    return (torch.randn(size, generator=generator, device=device, dtype=dtype) for _ in range(4))


def _mask(shape: Shape, device: torch.device) -> Tensor | None:
    if not shape.masked:
        return None
    mask = torch.ones(shape.batch, shape.tokens, dtype=torch.bool, device=device)
    mask[-1, shape.tokens - shape.tokens // 3 :] = False
    return mask


def _exact(inputs: Sequence[Tensor], mask: Tensor | None, gradients: bool) -> list[Tensor]:
    """Output, and gradients, of one head in float32 or wider: (B, S, 1, P)."""
    wide = torch.promote_types(inputs[0].dtype, torch.float32)
    q, k, v, grad = (x.transpose(1, 2).to(wide) for x in inputs)
    out, logsumexp = math_forward(q, k, v, mask)
    results = [out, *math_backward(grad, q, k, v, out, logsumexp, mask)] if gradients else [out]
    return [x.transpose(1, 2) for x in results]


def _error(ours: Tensor, exact: Tensor) -> float:
    worst = (ours.to(exact.dtype) - exact).norm(dim=-1).max()
    return float(worst / exact.norm(dim=-1).square().mean().sqrt())
