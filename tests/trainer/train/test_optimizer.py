"""The learning rate is a function of the step; weight decay spares biases and norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mochi_api.spec import TrainingSpec
from mochi_trainer.train.optimizer import adamw, learning_rate


def spec(**changes: object) -> TrainingSpec:
    return TrainingSpec.model_validate({"steps": 100, "learningRate": "0.01", "warmupSteps": 10} | changes)


def test_the_rate_rises_straight_to_its_peak() -> None:
    assert [learning_rate(step, spec()) for step in (1, 5, 10)] == pytest.approx([0.001, 0.005, 0.01])


def test_the_rate_falls_along_half_a_cosine_and_every_step_counts() -> None:
    rates = [learning_rate(step, spec()) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.01
    assert 0 < rates[-1] < 0.0001
    assert learning_rate(55, spec()) == pytest.approx(0.005, rel=0.05)


def test_a_constant_schedule_stays_at_the_peak() -> None:
    assert learning_rate(100, spec(schedule="Constant")) == 0.01


def test_without_warmup_the_first_step_is_near_the_peak() -> None:
    assert learning_rate(1, spec(warmupSteps=0)) == pytest.approx(0.01, rel=0.01)


def test_only_matrices_decay() -> None:
    parameters = {
        "w": nn.Parameter(torch.ones(2, 2)),
        "b": nn.Parameter(torch.ones(2)),
        "pos_frequencies": nn.Parameter(torch.ones(3, 2, 2)),
    }
    optimizer = adamw(parameters, spec(weightDecay="0.5"))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in parameters.values()] == [0.5, 0.0, 0.0]


def _trained(dtype: torch.dtype, **options: bool) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    weights = nn.Parameter(torch.randn(64, 64, generator=draws).to(dtype))
    optimizer = adamw({"w": weights}, spec(weightDecay="0.1"))
    if options:
        optimizer = torch.optim.AdamW([weights], lr=0.01, weight_decay=0.1, **options)
    for step in range(1, 101):
        optimizer.param_groups[0]["lr"] = learning_rate(step, spec())
        weights.grad = torch.randn(64, 64, generator=draws).to(dtype)
        optimizer.step()
    return weights.detach().double()


def test_the_fused_kernel_is_as_near_to_float64_as_the_loop_over_operators() -> None:
    """It rounds otherwise than the loop, with which training was computed before."""
    exact = _trained(torch.float64, foreach=False)
    loop, fused = _trained(torch.float32, foreach=False), _trained(torch.float32)
    ours, theirs = (float((each - exact).abs().max()) for each in (fused, loop))
    assert ours <= 2 * theirs
    assert ours <= 1e-6 * float(exact.abs().max())


def test_the_optimizer_is_one_kernel_a_group() -> None:
    optimizer = adamw({"w": nn.Parameter(torch.ones(2, 2))}, spec())
    assert all(group["fused"] for group in optimizer.param_groups)
