"""The model as a GPU trains it, in bfloat16 and with recomputation, gives the loss and the gradients of float32.

Measured on one CPU with `nano`, two clips, one of them with the empty prompt; losses differ by at most 9.2e-4, all
gradients as one vector by 0.0144, that of one parameter by 0.036 (relative). The bounds are at most about twice that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils._python_dispatch import TorchDispatchMode

from mochi_api.spec import TrainingSpec
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.lora import LoraParams, trainable_parameters
from mochi_trainer.model import DiT
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.gradients import measures, settled
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import whole
from mochi_trainer.presets import preset_named
from mochi_trainer.train.composition import Adapters, Choices, Composed, Stored, compose
from tests.trainer.distributed import run_distributed

CPU = torch.device("cpu")
NANO = preset_named("nano")
DEPTH = NANO.dit.depth
CLIPS = 2
SHAPE = (1, 12, 2, 4, 6)
LOSS, ALL, WORST = 0.002, 0.02, 0.06
"""Largest relative difference: of the loss; of all gradients as one vector; of one parameter's gradient."""


class Found(NamedTuple):
    """The mean loss of the clips, and the gradients by name."""

    loss: float
    gradients: dict[str, Any]


def composed(
    mode: str,
    group: Group,
    *,
    compute: torch.dtype,
    left_alone: int,
    dropout: float = 0.0,
    copies: int = 1,
) -> Composed:
    params = LoraParams(rank=4, alpha=8, dropout=dropout, targets=("query", "value", "mlp_in", "text_key"))
    return compose(
        Stored(NANO, None),
        Choices(compute=compute, attention=Backend.CPU, left_alone=left_alone, copies=copies),
        adapters=Adapters(params=params, seed=3) if mode == "lora" else None,
        spec=TrainingSpec.model_validate({"steps": 1}),
        group=group,
        device=CPU,
        start=no_longer_zero,
    )


@torch.no_grad()
def no_longer_zero(model: DiT) -> None:
    """While B is zero A has no gradient."""
    for index, (name, parameter) in enumerate(trainable_parameters(model).items()):
        if ".lora_B." in name:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) / 8)


def inputs(clip: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, noise level, caption, and the answer."""
    draws = torch.Generator().manual_seed(clip)
    return (
        torch.randn(SHAPE, generator=draws),
        torch.rand(1, generator=draws),
        torch.randn(1, 0 if clip == 1 else 6, NANO.dit.text_feature_width, generator=draws),
        torch.randn(SHAPE, generator=draws),
    )


def found(model: DiT, group: Group, clips: int = CLIPS) -> Found:
    """On this rank's clips; the gradients are those of all."""
    model.train()
    torch.manual_seed(11)
    parameters, share = list(trainable_parameters(model).values()), clips // group.data_world
    losses = []
    for clip in range(group.data_rank * share, (group.data_rank + 1) * share):
        *given, answer = inputs(clip)
        loss = mse_loss(model(*given), answer)
        torch.autograd.backward(loss / share)
        losses.append(loss.detach() / share)
    [total], _ = settled(measures(torch.stack(losses).sum(), parameters, group), parameters, group)
    mean = total / group.world
    gradients = {
        name: whole(parameter.grad).numpy()
        for name, parameter in trainable_parameters(model).items()
        if parameter.grad is not None
    }
    return Found(mean, gradients)


def of_ranks(
    mode: str, compute: torch.dtype, left_alone: int, clips: int, copies: int, context: int = 1
) -> Found:
    world = int(os.environ["WORLD_SIZE"])
    with joined(ranks_of(os.environ, processes=world), CPU, limit=60, context=context) as group:
        model = composed(mode, group, compute=compute, left_alone=left_alone, copies=copies).model
        assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}
        return found(model, group, clips)


def relative(ours: Any, exact: Any) -> float:
    return float(((ours - exact) ** 2).sum() ** 0.5 / max(1e-12, (exact**2).sum() ** 0.5))


@pytest.fixture(scope="module")
def exact() -> Callable[[str, int], Found]:
    """One rank in float32, where nothing is computed again, for a mode and a number of clips."""
    return lru_cache(
        lambda mode, clips: run_distributed(of_ranks, 1, mode, torch.float32, DEPTH, clips, 1)[0]
    )


@pytest.mark.parametrize(
    ("mode", "world", "left_alone", "clips", "copies", "context"),
    [
        pytest.param("lora", 1, 0, 2, 1, 1, id="lora"),
        pytest.param("lora", 2, 2, 2, 1, 1, id="lora on two"),
        pytest.param("lora", 4, 0, 4, 1, 1, id="lora on four"),
        pytest.param("full", 1, 2, 2, 1, 1, id="full"),
        pytest.param("full", 2, 0, 2, 1, 1, id="full on two"),
        pytest.param("full", 4, 1, 4, 1, 1, id="full on four"),
        pytest.param("full", 4, 0, 4, 2, 1, id="full on four, two copies"),
        pytest.param("full", 2, 1, 4, 1, 1, id="full on two, two clips each"),
        pytest.param("full", 2, 0, 4, 2, 1, id="full on two, a copy and two clips each"),
        pytest.param("lora", 2, 0, 2, 1, 2, id="lora, each clip on two"),
        pytest.param("full", 2, 1, 2, 1, 2, id="full, each clip on two"),
        pytest.param("full", 4, 0, 4, 1, 2, id="full, two clips at a time on two each"),
        pytest.param("full", 4, 0, 4, 2, 2, id="full, the same with a copy each"),
    ],
)
def test_bfloat16_has_the_loss_and_the_gradients_of_float32(
    mode: str,
    world: int,
    left_alone: int,
    clips: int,
    copies: int,
    context: int,
    exact: Callable[[str, int], Found],
) -> None:
    expected = exact(mode, clips)
    one, *others = run_distributed(of_ranks, world, mode, torch.bfloat16, left_alone, clips, copies, context)
    assert all(other.loss == one.loss for other in others)
    assert one.gradients.keys() == expected.gradients.keys()
    pairs = [(one.gradients[name], gradient) for name, gradient in expected.gradients.items()]
    total = (
        sum(((ours - theirs) ** 2).sum() for ours, theirs in pairs)
        / sum((theirs**2).sum() for _, theirs in pairs)
    ) ** 0.5
    worst = max(relative(ours, theirs) for ours, theirs in pairs)
    assert abs(one.loss / expected.loss - 1) <= LOSS
    assert total <= ALL
    assert worst <= WORST


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("left_alone", [0, 1, DEPTH - 1])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_recomputation_changes_no_bit_of_a_gradient(
    compute: torch.dtype, left_alone: int, dropout: float
) -> None:
    torch.set_num_threads(1)
    plain, again = (
        composed("lora", Group(), compute=compute, left_alone=number, dropout=dropout).model
        for number in (DEPTH, left_alone)
    )
    one, other = found(plain, Group()), found(again, Group())
    assert one.loss == other.loss
    assert all((gradient == other.gradients[name]).all() for name, gradient in one.gradients.items())
    assert any(gradient.any() for gradient in one.gradients.values())


class Counted(TorchDispatchMode):
    """How often the kernels of matrix products and of attention were called."""

    def __init__(self) -> None:
        super().__init__()
        self.products, self.attention = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func in {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
        self.attention += func is torch.ops.mochi.attention.default
        return func(*args, **(kwargs or {}))


def test_attention_is_computed_once_and_blocks_left_alone_not_twice() -> None:
    torch.set_num_threads(1)
    products = []
    for left_alone in (0, 2, DEPTH):
        model = composed("lora", Group(), compute=torch.float32, left_alone=left_alone).model
        with Counted() as counted:
            found(model, Group())
        assert counted.attention == CLIPS * DEPTH
        products.append(counted.products)
    assert products[0] > products[1] > products[2]


@pytest.mark.parametrize("left_alone", [-1, DEPTH + 1])
def test_more_blocks_than_there_are_cannot_be_left_alone(left_alone: int) -> None:
    with pytest.raises(InvalidInputError, match=f"must be from 0 to the {DEPTH} blocks"):
        composed("lora", Group(), compute=torch.float32, left_alone=left_alone)
