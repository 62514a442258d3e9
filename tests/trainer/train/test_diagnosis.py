"""A step that is not finite says which clip and which layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mochi_api.spec import TrainingSpec
from mochi_trainer.model import DiT
from mochi_trainer.parallel.group import Group
from mochi_trainer.train.diagnosis import bad_gradient, bad_layer
from mochi_trainer.train.draws import Example
from mochi_trainer.train.optimizer import adamw
from mochi_trainer.train.step import optimizer_step
from mochi_trainer.weights import load_dit
from tests.trainer.training_runs import LATENT_SHAPE, TEXT_WIDTH


def given() -> Example:
    draws = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, *LATENT_SHAPE, generator=draws), torch.randn(1, 5, TEXT_WIDTH, generator=draws)
    return Example(x, torch.tensor([0.5]), text, torch.randn(1, *LATENT_SHAPE, generator=draws))


@pytest.fixture
def model() -> DiT:
    return load_dit("nano").requires_grad_(True)


@pytest.mark.parametrize(
    "layer", ["x_embedder.proj", "blocks.1.attn.qkv_x", "blocks.2.mlp_x.w2", "final_layer.linear"]
)
def test_the_first_layer_with_a_number_that_is_not_finite_is_named(model: DiT, layer: str) -> None:
    assert bad_layer(model, given()) == ""
    with torch.no_grad():
        next(model.get_submodule(layer).parameters()).view(-1)[0] = math.inf
    assert bad_layer(model, given()) == layer
    assert all(not module._forward_hooks for module in model.modules())


def test_the_parameter_where_gradients_begin_to_be_bad_is_named_counted_from_the_output() -> None:
    class Root(nn.Module):
        """Finite, with an infinite gradient at 0."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sqrt()

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), Root(), nn.Linear(2, 2))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    model(torch.ones(1, 2)).sum().backward()
    assert bad_gradient(model) == "1.bias"


def test_a_step_keeps_the_weights_and_names_the_gradient(model: DiT) -> None:
    example = given()
    optimizer = adamw(dict(model.named_parameters()), TrainingSpec(learning_rate="0.1"))
    before = {name: p.clone() for name, p in model.named_parameters()}
    bad = Example(example.x, example.sigma, example.text, torch.full_like(example.target, math.nan))
    record = optimizer_step(
        model, optimizer, [example, bad], step=1, share=2, rate=0.1, clip=1.0, group=Group()
    )
    assert [math.isfinite(loss) for loss in record.slots] == [True, False]
    assert not record.finite
    assert record.bad_gradient.startswith("final_layer.")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
