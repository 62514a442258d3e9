"""Floating-point operations of a step: those of matrix products, two for each product and sum of a pair.

A forward pass costs L for the matrices and A for the attention; its backward pass A * 5/2, since the scores are computed
again, and L for the gradients of what is computed, and L once more for those of the weights where they are trained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import cast

from mochi_api.prediction.policies import Policy
from mochi_api.prediction.sizes import TARGET_LAYERS, Layer, Rows, adapted
from mochi_api.prediction.work import Work
from mochi_api.spec import Target


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of matrix products and of attention, which run at speeds of their own."""

    matrices: int = 0
    attention_forward: int = 0
    attention_backward: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.matrices + self.attention_forward + self.attention_backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.matrices + other.matrices,
            self.attention_forward + other.attention_forward,
            self.attention_backward + other.attention_backward,
        )

    def times(self, count: int) -> Flops:
        """These, `count` times."""
        return Flops(self.matrices * count, self.attention_forward * count, self.attention_backward * count)


def attention(work: Work) -> int:
    """A of one block: every token to every token, two products of the width of this rank's heads."""
    return 4 * work.tokens**2 * work.network.width // work.context


def block_forward(work: Work, index: int) -> Flops:
    """The forward pass of one block, with its adapters."""
    adapters = 0 if work.full else _adapters(work, index)
    return Flops(_products(work, work.network.layers(index)) + adapters, attention(work))


def block_backward(work: Work, index: int) -> Flops:
    """The backward pass of one block, without what is computed again.

    With adapters the gradient ends at those of the first block that come first: nothing before them is trained.
    """
    layers, spread = work.network.layers(index), attention(work) * 5 // 2
    if work.full:
        return Flops(2 * _products(work, layers), 0, spread)
    reached = _reached(work.targets) if index == 0 else frozenset(layer.name for layer in layers)
    through = _products(work, (layer for layer in layers if layer.name in reached and layer.rows != "once"))
    attended = index > 0 or "attn.proj_x" in reached
    return Flops(through + _adapters_backward(work, index, reached), 0, spread if attended else 0)


def recomputed(work: Work, policy: Policy) -> Flops:
    """What is computed again in the backward pass."""
    found = Flops()
    for index in range(max(0, work.network.depth - policy.left_alone)):
        again = block_forward(work, index)
        found += Flops(again.matrices) if policy.keep_attention else again
    return found


def forward(work: Work) -> Flops:
    """One forward pass of one clip."""
    found = Flops(_products(work, work.network.ends))
    for index in range(work.network.depth):
        found += block_forward(work, index)
    return found


def step(work: Work, policy: Policy) -> Flops:
    """One optimizer step of one rank: all its clips."""
    found = forward(work) + recomputed(work, policy)
    for index in range(work.network.depth):
        found += block_backward(work, index)
    return (found + Flops(_ends_backward(work))).times(work.share)


def useful(work: Work) -> int:
    """Operations of a step that the model asks for, nothing computed twice: 3 L + 3 A, or 2 L + 3 A with adapters.

    The share of these in what a GPU can do is the MFU.
    """
    found = forward(work)
    linears = 3 if work.full else 2
    return (linears * found.matrices + 3 * found.attention_forward) * work.share


def _rows(work: Work, rows: Rows) -> int:
    return {"visual": work.own_tokens, "text": work.text_tokens, "once": 1}[rows]


def _products(work: Work, layers: Iterable[Layer]) -> int:
    return sum(2 * _rows(work, layer.rows) * layer.weights for layer in layers)


def _adapters(work: Work, index: int) -> int:
    """Forward through both matrices of each adapter of a block."""
    parts = adapted(work.network, index, work.targets)
    return sum(2 * _rows(work, part.rows) * work.rank * (part.inputs + part.outputs) for part in parts)


def _adapters_backward(work: Work, index: int, reached: frozenset[str]) -> int:
    """Gradients of both matrices and of what lies between, and of the input where that has one."""
    found = 0
    for part in adapted(work.network, index, work.targets):
        inputs = 2 if TARGET_LAYERS[cast(Target, part.name)][0] in reached else 1
        found += 2 * _rows(work, part.rows) * work.rank * (inputs * part.inputs + 2 * part.outputs)
    return found


def _reached(targets: Collection[Target]) -> frozenset[str]:
    """Layers of the first block whose input has a gradient: one of the adapters lies before them."""
    entries = ("query", "key", "value", "text_query", "text_key", "text_value")
    attended = any(target in targets for target in entries)
    updated = {"x": attended or "output" in targets, "y": attended or "text_output" in targets}
    hidden = {"x": updated["x"] or "mlp_in" in targets, "y": updated["y"] or "text_mlp_in" in targets}
    conditions = {"attn.proj_x": attended, "attn.proj_y": attended}
    for stream in ("x", "y"):
        conditions |= {f"mlp_{stream}.w1": updated[stream], f"mlp_{stream}.w2": hidden[stream]}
    return frozenset(name for name, holds in conditions.items() if holds)


def _ends_backward(work: Work) -> int:
    """Gradients of the layers outside the blocks: of all weights, or only back through the last one."""
    ends = work.network.ends
    if not work.full:
        return _products(work, (layer for layer in ends if layer.name == "final_layer.linear"))
    inputs = ("x_embedder.proj", "t_embedder.mlp.0", "t5_y_embedder.to_kv", "t5_yproj")
    first = (layer for layer in ends if layer.name in inputs)
    return 2 * _products(work, ends) - _products(work, first)
