"""The kernels that compute attention, each as one pair of functions: forward, and the gradients.

Shapes are suffixes of names: B batch; A heads; S tokens; P width of a head. All pairs take and return (B, A, S, P) and
a logarithm of the sum of exponentials (B, A, S), in float32 or wider. The scale is 1 / sqrt(P). None of them waits for
the device, and no shape depends on data.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

SCORES = 2**28
"""Most scores that the math kernel holds at once: 1 GiB in float32."""

_LSE_ALIGNMENT = 32
_BIAS_ALIGNMENT = 16

Forward = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]
]


class Backend(StrEnum):
    """The kernels by name, the ones for a GPU from the fastest on Hopper to the slowest."""

    FLASH_3 = "flash3"
    """FlashAttention-3, where `flash_attn_interface` can be imported; half precision, no mask."""

    CUDNN = "cudnn"
    """cuDNN through torch; half precision; used without a mask only."""

    FLASH_2 = "flash2"
    """FlashAttention-2 through torch; half precision, no mask."""

    EFFICIENT = "efficient"
    """Memory-efficient attention through torch; on a GPU it also computes every call with a mask."""

    CPU = "cpu"
    """Torch's flash attention for the CPU: what scaled_dot_product_attention calls there; takes a mask."""

    MATH = "math"
    """Matrix products in float32 or wider, on any device; slow."""


class Kernel(NamedTuple):
    """The two functions of a backend."""

    forward: Forward
    """q, k, v, key mask (B, S) or None to output and logsumexp."""
    backward: Backward
    """gradient, q, k, v, output, logsumexp, key mask to the gradients of q, k, v."""


def kernel_for(backend: str, *, masked: bool) -> Kernel:
    """The kernel of `backend`; with a mask, that of EFFICIENT for those that take none."""
    if masked and backend in {Backend.FLASH_3, Backend.CUDNN, Backend.FLASH_2}:
        return KERNELS[Backend.EFFICIENT]
    return KERNELS[Backend(backend)]


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """float32, or `dtype` when that is wider."""
    return torch.promote_types(dtype, torch.float32)


def _bias(key_mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, 1, S): 0 for a valid key, minus infinity for the others."""
    bias_BS = torch.zeros(key_mask_BS.shape, dtype=dtype, device=key_mask_BS.device)
    return bias_BS.masked_fill(~key_mask_BS, -math.inf)[:, None, None]


# CPU


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    bias = None if key_mask is None else _bias(key_mask, q.dtype)
    out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)
    return out, logsumexp


def _cpu_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, key_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    bias = None if key_mask is None else _bias(key_mask, q.dtype)
    # the kernel reads the logsumexp in the order (B, S, A) in which it wrote it
    logsumexp = logsumexp.transpose(1, 2).contiguous().transpose(1, 2)
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, logsumexp, 0.0, False, attn_mask=bias
    )
    return dq, dk, dv


# math


def _chunks(q_BASP: Tensor, keys: int) -> Iterator[slice]:
    """Slices of the queries with at most SCORES scores each."""
    batch, heads, queries, _ = q_BASP.shape
    step = max(1, SCORES // max(1, batch * heads * keys))
    return (slice(start, start + step) for start in range(0, queries, step))


def _scores(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores if bias is None else scores + bias


def math_forward(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention by its definition, some queries at a time."""
    dtype = wide_type(q.dtype)
    bias = None if key_mask is None else _bias(key_mask, dtype)
    out, logsumexp = torch.empty_like(q), torch.empty(q.shape[:-1], dtype=dtype, device=q.device)
    k, v = k.to(dtype), v.to(dtype)
    for part in _chunks(q, k.shape[2]):
        scores = _scores(q[:, :, part].to(dtype), k, bias)
        logsumexp[:, :, part] = scores.logsumexp(dim=-1)
        out[:, :, part] = (scores - logsumexp[:, :, part, None]).exp() @ v
    return out, logsumexp


def math_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, key_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by their definition: dS = P * (dP - the sum over P * dP)."""
    dtype, scale = wide_type(q.dtype), 1 / math.sqrt(q.shape[-1])
    bias = None if key_mask is None else _bias(key_mask, dtype)
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=dtype), torch.zeros_like(v, dtype=dtype)
    wide_k, wide_v = k.to(dtype), v.to(dtype)
    for part in _chunks(q, k.shape[2]):
        q_part, grad_part, out_part = (x[:, :, part].to(dtype) for x in (q, grad, out))
        weights = (_scores(q_part, wide_k, bias) - logsumexp[:, :, part, None]).exp()
        dv += weights.transpose(-1, -2) @ grad_part
        mean = (grad_part * out_part).sum(dim=-1, keepdim=True)
        dscores = weights * (grad_part @ wide_v.transpose(-1, -2) - mean)
        dq[:, :, part] = scale * (dscores @ wide_k)
        dk += scale * (dscores.transpose(-1, -2) @ q_part)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


# GPU. The tensors of the random state are only read with dropout, which is never on.


def _no_random_state(like: Tensor, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=like.device)


def cudnn_forward(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
    """Through torch; the kernel's logsumexp is (B, A, S, 1)."""
    out, logsumexp, *_rest = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
    return out, logsumexp.view(q.shape[:-1])


def cudnn_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, _: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients through torch."""
    seed, offset = _no_random_state(q), _no_random_state(q)
    # bias and sequence offsets: none
    dq, dk, dv = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        grad,
        q,
        k,
        v,
        out,
        logsumexp[..., None],
        seed,
        offset,
        None,
        None,
        None,
        q.shape[2],
        k.shape[2],
        0.0,
        False,
    )
    return dq, dk, dv


def flash_2_forward(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
    """Through torch; heads at most 256 wide and a multiple of 8."""
    out, logsumexp, *_rest = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)
    return out, logsumexp


def flash_2_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, _: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients through torch."""
    state, unused = _no_random_state(q, 2, dtype=torch.uint64), _no_random_state(q, dtype=torch.uint64)
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        grad, q, k, v, out, logsumexp, None, None, q.shape[2], k.shape[2], 0.0, False, state, unused
    )
    return dq, dk, dv


def _expanded_bias(q: Tensor, keys: int, key_mask: Tensor | None) -> Tensor | None:
    """(B, A, S, S) without memory of its own but for one row, which starts at, and has strides of, whole 16s."""
    if key_mask is None:
        return None
    row = pad(_bias(key_mask, q.dtype), (0, -keys % _BIAS_ALIGNMENT))[..., :keys]
    return row.expand(*q.shape[:-1], keys)


def efficient_forward(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Through torch; the kernel pads its logsumexp to whole 32s, which are cut off here."""
    bias = _expanded_bias(q, k.shape[2], key_mask)
    out, logsumexp, *_rest = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)
    return out, logsumexp[..., : q.shape[2]]


def efficient_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, key_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients through torch."""
    bias = _expanded_bias(q, k.shape[2], key_mask)
    padded = pad(logsumexp, (0, -logsumexp.shape[-1] % _LSE_ALIGNMENT), value=math.inf)
    seed, offset = _no_random_state(q), _no_random_state(q)
    dq, dk, dv, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, bias, out, padded, seed, offset, 0.0, [True, True, True, False]
    )
    return dq, dk, dv


def _flash_3() -> Any:
    return importlib.import_module("flash_attn_interface")


def flash_3_forward(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
    """Through flash_attn_interface, which takes (B, S, A, P); releases differ in whether logsumexp is asked for."""
    function = _flash_3().flash_attn_func
    asked = (
        {"return_attn_probs": True} if "return_attn_probs" in inspect.signature(function).parameters else {}
    )
    out, logsumexp, *_rest = function(*(x.transpose(1, 2) for x in (q, k, v)), **asked)
    return out.transpose(1, 2), logsumexp


def flash_3_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, _: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients through flash_attn_interface, which writes them into tensors it is given."""
    grad, q, k, v, out = (x.transpose(1, 2).contiguous() for x in (grad, q, k, v, out))
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    lengths = [None] * 6  # of sequences in one packed batch: there is none
    scale = 1 / math.sqrt(q.shape[-1])
    _flash_3()._flash_attn_backward(grad, q, k, v, out, logsumexp, *lengths, dq, dk, dv, scale, False)
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


KERNELS = {
    Backend.FLASH_3: Kernel(flash_3_forward, flash_3_backward),
    Backend.CUDNN: Kernel(cudnn_forward, cudnn_backward),
    Backend.FLASH_2: Kernel(flash_2_forward, flash_2_backward),
    Backend.EFFICIENT: Kernel(efficient_forward, efficient_backward),
    Backend.CPU: Kernel(_cpu_forward, _cpu_backward),
    Backend.MATH: Kernel(math_forward, math_backward),
}
