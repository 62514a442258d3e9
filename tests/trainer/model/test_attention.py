"""The attention operator: the numbers of scaled_dot_product_attention, a lawful operator, one graph, no wait."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.functional import scaled_dot_product_attention

from mochi_trainer.model.attention import attend, attend_backward, attention
from mochi_trainer.model.attention_kernels import KERNELS, Backend, kernel_for
from mochi_trainer.model.dit import DiT
from tests.trainer.numerics import TINY, difference, draw, tiny_dit

LENGTHS = [192, 193, 65, 7, 1]
"""The first leaves half a tile of 128 over, and some are odd."""


def qkv(tokens: int, batch: int, dtype: torch.dtype, heads: int = 3, width: int = 16) -> list[Tensor]:
    shape = (batch, tokens, heads, width)
    return [draw(*shape, seed=seed, dtype=dtype).requires_grad_() for seed in range(3)]


def key_mask(tokens: int, batch: int) -> Tensor | None:
    if batch == 1:
        return None
    return torch.arange(tokens) < torch.tensor([[tokens], [tokens // 2 + 1]])


def results(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = draw(*out.shape, seed=9, dtype=out.dtype)
    return out, *torch.autograd.grad(out, inputs, weights)


def torch_attention(inputs: list[Tensor], mask: Tensor | None) -> Tensor:
    heads_first = (x.transpose(1, 2) for x in inputs)
    bias = None if mask is None else mask[:, None, None]
    out = scaled_dot_product_attention(*heads_first, attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("batch", [1, 2], ids=["no mask", "mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", LENGTHS)
def test_on_the_cpu_output_and_gradients_are_bit_for_bit_those_of_torch(
    tokens: int, dtype: torch.dtype, batch: int
) -> None:
    inputs, mask = qkv(tokens, batch, dtype), key_mask(tokens, batch)
    ours = results(attention(*inputs, mask), inputs)
    theirs = results(torch_attention(inputs, mask), inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("batch", [1, 2], ids=["no mask", "mask"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.01)], ids=str
)
@pytest.mark.parametrize("tokens", LENGTHS)
def test_the_math_backend_agrees_with_torch(
    tokens: int, dtype: torch.dtype, bound: float, batch: int
) -> None:
    inputs, mask = qkv(tokens, batch, dtype), key_mask(tokens, batch)
    ours = results(attention(*inputs, mask, Backend.MATH), inputs)
    wide = [x.detach().to(torch.float64).requires_grad_() for x in inputs]
    exact = results(torch_attention(wide, mask), wide)
    # of one token there is no gradient of q and k, only what rounding leaves
    assert all(
        float((a - b).detach().norm()) <= bound * max(1.0, float(b.detach().norm()))
        for a, b in zip(ours, exact, strict=True)
    )


def test_the_math_backend_in_chunks_is_the_math_backend_in_one_piece() -> None:
    q, k, v, grad = (draw(2, 3, 70, 16, seed=seed) for seed in range(4))
    whole = kernel_for("math", masked=False)
    out, logsumexp = whole.forward(q, k, v, None)
    parts = [whole.forward(each, k, v, None) for each in q.split(7, dim=2)]
    torch.testing.assert_close(torch.cat([part[0] for part in parts], dim=2), out)
    torch.testing.assert_close(torch.cat([part[1] for part in parts], dim=2), logsumexp)
    expected = torch.logsumexp(q @ k.transpose(-1, -2) / math.sqrt(16), dim=-1)
    torch.testing.assert_close(logsumexp, expected)
    dq, dk, dv = whole.backward(grad, q, k, v, out, logsumexp, None)
    slices = [slice(0, 33), slice(33, 70)]
    pieces = [
        whole.backward(grad[:, :, s], q[:, :, s], k, v, out[:, :, s], logsumexp[:, :, s], None)
        for s in slices
    ]
    torch.testing.assert_close(torch.cat([piece[0] for piece in pieces], dim=2), dq)
    torch.testing.assert_close(pieces[0][1] + pieces[1][1], dk)
    torch.testing.assert_close(pieces[0][2] + pieces[1][2], dv)


@pytest.mark.parametrize("batch", [1, 2], ids=["no mask", "mask"])
@pytest.mark.parametrize("backend", [Backend.MATH, Backend.CPU])
def test_gradients_are_those_of_finite_differences(backend: Backend, batch: int) -> None:
    inputs, mask = qkv(5, batch, torch.float64, heads=2, width=4), key_mask(5, batch)
    assert torch.autograd.gradcheck(lambda *x: attention(*x, mask, backend), inputs)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # of opcheck
@pytest.mark.parametrize("batch", [1, 2], ids=["no mask", "mask"])
@pytest.mark.parametrize("backend", ["math", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_both_operators_pass_the_checks_of_torch(backend: str, batch: int, dtype: torch.dtype) -> None:
    inputs, mask = qkv(9, batch, dtype), key_mask(9, batch)
    torch.library.opcheck(attend, (*inputs, mask, backend))
    q, k, v = (x.detach() for x in inputs)
    out, logsumexp = attend(q, k, v, mask, backend)
    torch.library.opcheck(attend_backward, (torch.ones_like(out), q, k, v, out, logsumexp, mask, backend))


def block_inputs(batch: int, text: int = 5, dtype: torch.dtype = torch.float32) -> tuple[object, ...]:
    visual = 12
    angles = draw(visual, TINY.heads, TINY.head_width // 2, seed=3, dtype=dtype)
    mask = key_mask(visual + text, batch)
    return (
        draw(batch, visual, TINY.visual_width, dtype=dtype),
        draw(batch, text, TINY.text_width, seed=1, dtype=dtype),
        draw(batch, TINY.visual_width, seed=2, dtype=dtype),
        (angles.cos(), angles.sin()),
        mask,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("batch", [1, 2], ids=["no mask", "mask"])
def test_a_block_compiles_to_one_graph_without_a_break(batch: int) -> None:
    block, inputs = tiny_dit(torch.float32).blocks[0], block_inputs(batch)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(block)(*inputs)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_captions_of_four_lengths_need_two_compilations_which_change_nothing() -> None:
    block = tiny_dit(torch.float32).blocks[0]
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    for length in (5, 6, 7, 8):
        inputs = block_inputs(1, length)
        torch.testing.assert_close(compiled(*inputs), block(*inputs), rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 2  # the first length, then any
    torch._dynamo.reset()


def test_a_block_needs_no_value_from_the_device_and_the_mask_is_compacted_before() -> None:
    with FakeTensorMode():
        model = DiT(TINY)
        angles = torch.empty(12, TINY.heads, TINY.head_width // 2)
        mask = torch.empty(2, 17, dtype=torch.bool)
        x, y = torch.empty(2, 12, TINY.visual_width), torch.empty(2, 5, TINY.text_width)
        out, _ = model.blocks[0](x, y, torch.empty(2, TINY.visual_width), (angles, angles), mask)
        assert out.shape == x.shape
        text_mask = torch.empty(2, 5, dtype=torch.bool)
        text = torch.empty(2, 5, TINY.text_feature_width)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            model(torch.empty(2, 12, 1, 4, 6), torch.empty(2), text, text_mask)


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("backend", ["cudnn", "flash2", "efficient"])
@pytest.mark.parametrize("tokens", [11_386, 24_106, 11_456, 11_387])
def test_calls_of_gpu_kernels_fit_their_schemas_and_return_what_the_operator_promises(
    backend: str, masked: bool, tokens: int
) -> None:
    with FakeTensorMode():
        q, k, v, grad = (
            torch.empty(2, tokens, 24, 128, dtype=torch.bfloat16, device="cuda").transpose(1, 2)
            for _ in range(4)
        )
        mask = torch.empty(2, tokens, dtype=torch.bool, device="cuda") if masked else None
        kernel = kernel_for(backend, masked=masked)
        out, logsumexp = kernel.forward(q, k, v, mask)
        assert (out.shape, out.dtype) == (q.shape, q.dtype)
        assert (logsumexp.shape, logsumexp.dtype) == (q.shape[:-1], torch.float32)
        gradients = kernel.backward(grad, q, k, v, out, logsumexp.contiguous(), mask)
        assert [(each.shape, each.dtype) for each in gradients] == [(q.shape, q.dtype)] * 3


def test_a_mask_goes_to_a_kernel_that_takes_one() -> None:
    takes_masks = {Backend.EFFICIENT, Backend.CPU, Backend.MATH}
    for backend in Backend:
        expected = backend if backend in takes_masks else Backend.EFFICIENT
        assert kernel_for(backend.value, masked=True) is KERNELS[expected]
        assert kernel_for(backend.value, masked=False) is KERNELS[backend]


def test_the_backend_does_not_change_the_velocity() -> None:
    model = tiny_dit()
    x, sigma, text = draw(1, 12, 2, 4, 6), torch.tensor([0.4]), draw(1, 5, 64, seed=1)
    with torch.no_grad():
        usual = model(x, sigma, text)
        for block in model.blocks:
            block.attn.backend = Backend.MATH
        try:
            assert difference(model(x, sigma, text), usual) <= 1e-12
        finally:
            for block in model.blocks:
                block.attn.backend = None
