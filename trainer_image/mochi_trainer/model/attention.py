"""Attention as one operator, `mochi::attention`, with its gradient, its shapes without data, and its FLOPs.

A tracer sees one call with known shapes, whatever kernel computes it; so a step is traced, and its FLOPs counted, on a
machine without a GPU. Shapes are suffixes of names: B batch; S tokens; A heads; P width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mochi_trainer.model.attention_kernels import Backend, kernel_for, wide_type


def attention(
    q_BSAP: Tensor,
    k_BSAP: Tensor,
    v_BSAP: Tensor,
    key_mask_BS: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Softmax attention of every token to every valid one: (B, S, A * P), typed like `q`.

    No mask means that all keys are valid; `backend` None is the usual one of the device and type, unchecked
    (`mochi_trainer.model.attention_choice.choose` checks).
    """
    backend = usual(q_BSAP.device.type, q_BSAP.dtype) if backend is None else backend
    out_BSAP: Tensor = attend(q_BSAP, k_BSAP, v_BSAP, key_mask_BS, backend.value)[0]
    return rearrange(out_BSAP, "B S A P -> B S (A P)")


def usual(device_type: str, dtype: torch.dtype) -> Backend:
    """What is used when nothing was chosen: torch's flash attention where it exists for this type."""
    if device_type == "cpu":
        return Backend.CPU
    if device_type != "cuda" or dtype == torch.float64:
        return Backend.MATH
    return Backend.EFFICIENT if dtype == torch.float32 else Backend.FLASH_2


@torch.library.custom_op("mochi::attention", mutates_args=())
def attend(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, backend: str) -> tuple[Tensor, Tensor]:
    """The operator: q, k, v (B, S, A, P) to the output (B, S, A, P) and the logsumexp (B, A, S) of the scores.

    Both are contiguous; the logsumexp is float32 or wider. Keys may be fewer or more than queries.
    """
    kernel = kernel_for(backend, masked=key_mask is not None)
    out, logsumexp = kernel.forward(_by_head(q), _by_head(k), _by_head(v), key_mask)
    return _by_token(out), logsumexp.contiguous()


@torch.library.custom_op("mochi::attention_backward", mutates_args=())
def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    key_mask: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, contiguous, from the gradient of the output (all B, S, A, P)."""
    kernel = kernel_for(backend, masked=key_mask is not None)
    grad, q, k, v, out = (_by_head(x) for x in (grad, q, k, v, out))
    dq, dk, dv = kernel.backward(grad, q, k, v, out, logsumexp, key_mask)
    return _by_token(dq), _by_token(dk), _by_token(dv)


def _by_head(x_BSAP: Tensor) -> Tensor:
    return x_BSAP.transpose(1, 2)


def _by_token(x_BASP: Tensor) -> Tensor:
    return x_BASP.transpose(1, 2).contiguous()


@attend.register_fake
def _attend_shapes(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _width = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, heads, tokens), dtype=wide_type(q.dtype))


@attend_backward.register_fake
def _attend_backward_shapes(
    _grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, key_mask, backend = inputs
    out, logsumexp = output
    ctx.save_for_backward(q, k, v, out, logsumexp, key_mask)
    ctx.mark_non_differentiable(logsumexp)
    ctx.backend = backend


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, logsumexp, key_mask = ctx.saved_tensors
    return *attend_backward(grad, q, k, v, out, logsumexp, key_mask, ctx.backend), None, None


attend.register_autograd(_gradients, setup_context=_save)


@register_flop_formula(torch.ops.mochi.attention)
def attention_flops(q_shape: torch.Size, k_shape: torch.Size, *_: Any, **__: Any) -> int:
    """4 B A S S P: two matrix products, each of two operations a term; the softmax is not counted."""
    batch, queries, heads, width = q_shape
    return 4 * batch * heads * queries * k_shape[1] * width


@register_flop_formula(torch.ops.mochi.attention_backward)
def attention_backward_flops(
    _: torch.Size, q_shape: torch.Size, k_shape: torch.Size, *__: Any, **___: Any
) -> int:
    """Five products instead of two: the scores are computed again, then dV, dP, dQ and dK."""
    return attention_flops(q_shape, k_shape) * 5 // 2
