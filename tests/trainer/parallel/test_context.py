"""Ranks that share the tokens of a clip have the loss and the gradients of one rank with all of them.

Float32, `nano`, on one CPU; largest relative differences measured: 8.1e-8 of the loss, 6.2e-7 of the
gradient's norm, 4.3e-6 of one parameter's gradient.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.lora import trainable_parameters
from mochi_trainer.model import DiT
from mochi_trainer.parallel.context import share_tokens
from mochi_trainer.parallel.gradients import measures, settled
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import whole
from mochi_trainer.presets import preset_named
from tests.trainer.distributed import run_distributed
from tests.trainer.train.test_composition import composed

CPU = torch.device("cpu")
NANO = preset_named("nano").dit
DEPTH = NANO.depth
LOSS, GRADIENT = 1e-5, 1e-5
"""Largest relative difference: of the loss and the gradient's norm; of one parameter's gradient, as one vector."""


class Clip(NamedTuple):
    """Latent frames, rows and columns, and text tokens."""

    frames: int
    rows: int
    columns: int
    text: int


CLIPS = (Clip(3, 2, 6, 6), Clip(5, 2, 2, 0), Clip(1, 2, 2, 1), Clip(1, 6, 10, 1))
"""9, 5, 1 and 15 visual tokens: with four ranks some have padding only. The empty caption, and one of a single token."""


def inputs(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, noise level, caption, and the answer."""
    clip, draws = CLIPS[number], torch.Generator().manual_seed(number)
    shape = (1, NANO.latent_channels, clip.frames, clip.rows, clip.columns)
    return (
        torch.randn(shape, generator=draws),
        torch.rand(1, generator=draws),
        torch.randn(1, clip.text, NANO.text_feature_width, generator=draws),
        torch.randn(shape, generator=draws),
    )


class Found(NamedTuple):
    """Mean loss, norm of the gradient, and the gradients by name, over all clips."""

    loss: float
    norm: float
    gradients: dict[str, Any]


def found(mode: str, world: int, context: int, copies: int, left_alone: int) -> Found:
    with joined(ranks_of(os.environ, processes=world), CPU, limit=60, context=context) as group:
        model = composed(mode, group, compute=torch.float32, left_alone=left_alone, copies=copies).model
        model.train()
        parameters, share = list(trainable_parameters(model).values()), len(CLIPS) // group.data_world
        losses = []
        for number in range(group.data_rank * share, (group.data_rank + 1) * share):
            *given, answer = inputs(number)
            loss = mse_loss(model(*given), answer)
            torch.autograd.backward(loss / share)
            losses.append(loss.detach() / share)
        [total], norm = settled(measures(torch.stack(losses).sum(), parameters, group), parameters, group)
        gradients = {
            name: whole(parameter.grad).numpy()
            for name, parameter in trainable_parameters(model).items()
            if parameter.grad is not None
        }
        return Found(total / group.world, norm, gradients)


@pytest.fixture(scope="module")
def alone() -> dict[str, Found]:
    """One rank, where nothing is computed again."""
    return {mode: run_distributed(found, 1, mode, 1, 1, 1, DEPTH)[0] for mode in ("lora", "full")}


@pytest.mark.parametrize(
    ("mode", "world", "context", "copies", "left_alone"),
    [
        pytest.param("lora", 2, 2, 1, 1, id="lora, one clip on two"),
        pytest.param("lora", 4, 2, 1, 0, id="lora, two clips on two each"),
        pytest.param("full", 2, 2, 1, 0, id="full, one clip on two"),
        pytest.param("full", 4, 2, 1, DEPTH, id="full, two clips on two each"),
        pytest.param("full", 4, 4, 1, 1, id="full, one clip on four"),
        pytest.param("full", 4, 2, 2, 0, id="full, a copy of the weights for each clip"),
    ],
)
def test_ranks_that_share_a_clip_have_the_gradients_of_one(
    mode: str, world: int, context: int, copies: int, left_alone: int, alone: dict[str, Found]
) -> None:
    expected = alone[mode]
    for ours in run_distributed(found, world, mode, world, context, copies, left_alone):
        worst = max(
            float(((ours.gradients[name] - theirs) ** 2).sum() ** 0.5 / max(1e-12, (theirs**2).sum() ** 0.5))
            for name, theirs in expected.gradients.items()
        )
        assert ours.gradients.keys() == expected.gradients.keys()
        assert ours.loss == pytest.approx(expected.loss, rel=LOSS)
        assert ours.norm == pytest.approx(expected.norm, rel=LOSS)
        assert worst <= GRADIENT


@pytest.mark.parametrize(("world", "context"), [(3, 3), (2, 4)], ids=["heads", "ranks"])
def test_what_cannot_be_dealt_out_evenly_is_refused(world: int, context: int) -> None:
    with torch.device("meta"):
        model = DiT(NANO)
    with pytest.raises(
        InvalidInputError,
        match=f"must divide the {NANO.heads} attention heads of the model and the {world} processes .*, got {context}",
    ):
        share_tokens(model, Group(world=world, context=context))
