"""Blocks are compiled once, for captions of every length, to what they are without.

In processes of their own: a compilation leaves threads, and of a process with those no rank can be forked that computes gradients.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from mochi_api.spec import TrainingSpec
from mochi_trainer.lora import LoraParams, trainable_parameters
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import whole
from mochi_trainer.presets import preset_named
from mochi_trainer.train.composition import Adapters, Choices, Stored, compose
from tests.trainer.compiled_bytes import Mode, Moved, compiled, eager
from tests.trainer.distributed import run_distributed

NANO = preset_named("nano")
LENGTHS = (6, 0, 1, 256)
CPU = torch.device("cpu")


@torch.no_grad()
def no_longer_zero(model: DiT) -> None:
    for index, (name, parameter) in enumerate(trainable_parameters(model).items()):
        if ".lora_B." in name:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) / 8)


def composed(compiler: str | None) -> DiT:
    """nano with adapters, everything computed again but attention."""
    model = compose(
        Stored(NANO, None),
        Choices(compute=torch.float32, attention=Backend.CPU, left_alone=0, compiler=compiler),
        adapters=Adapters(params=LoraParams(rank=4, targets=("query", "value", "mlp_in", "text_key"))),
        spec=TrainingSpec.model_validate({"steps": 1}),
        group=Group(),
        device=CPU,
        start=no_longer_zero,
    ).model
    return model.train()


def gradients(model: DiT, tokens: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(tokens)
    x = torch.randn(1, 12, 2, 4, 6, generator=draws)
    text = torch.randn(1, tokens, NANO.dit.text_feature_width, generator=draws)
    loss = model(x, torch.rand(1, generator=draws), text).square().mean()
    parameters = list(trainable_parameters(model).values())
    return [loss, *torch.autograd.grad(loss, parameters)]


def _all_lengths() -> tuple[int, list[str]]:
    """How many graphs were compiled, and where they broke."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    plain, compiled = composed(None), composed("aot_eager")
    for tokens in LENGTHS:
        for ours, theirs in zip(gradients(compiled, tokens), gradients(plain, tokens), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7), tokens
    return counters["stats"]["unique_graphs"], list(counters["graph_break"])


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_blocks_with_adapters_and_recomputation_are_compiled_twice_for_all_lengths() -> None:
    """One graph for the last block, which leaves the text alone, and one for all others; no break."""
    assert run_distributed(_all_lengths, 1, limit=300) == [(2, [])]


def _sharded(compiler: str | None) -> tuple[list[Any], int, list[str]]:
    """Gradients of all weights, sharded over the ranks; how many graphs were compiled, and where they broke."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    with joined(ranks_of(os.environ, processes=2), CPU, limit=100) as group:
        model = compose(
            Stored(NANO, None),
            Choices(compute=torch.bfloat16, attention=Backend.CPU, left_alone=1, compiler=compiler),
            adapters=None,
            spec=TrainingSpec.model_validate({"steps": 1}),
            group=group,
            device=CPU,
        ).model.train()
        found = []
        for tokens in (6, 0, 1):
            draws = torch.Generator().manual_seed(10 * group.rank + tokens)
            x = torch.randn(1, 12, 2, 4, 6, generator=draws)
            text = torch.randn(1, tokens, NANO.dit.text_feature_width, generator=draws)
            model(x, torch.rand(1, generator=draws), text).float().square().mean().backward()
            found += [
                whole(p.grad).numpy() for _, p in sorted(model.named_parameters()) if p.grad is not None
            ]
            model.zero_grad()
        return found, counters["stats"]["unique_graphs"], list(counters["graph_break"])


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_compiled_blocks_are_sharded_as_they_are_without() -> None:
    """As mode full composes them, in bfloat16 on two ranks: FSDP2's hooks stay outside the graphs."""
    (plain, none, _), (compiled, graphs, breaks) = (
        run_distributed(_sharded, 2, compiler, limit=200)[0] for compiler in (None, "aot_eager")
    )
    assert (none, graphs, breaks) == (0, 2, [])
    assert len(plain) == len(compiled) > 50
    for ours, theirs in zip(compiled, plain, strict=True):
        assert ((ours - theirs) ** 2).sum() ** 0.5 <= 0.02 * max(1e-6, (theirs**2).sum() ** 0.5)


def _counted(mode: Mode) -> tuple[Moved, Moved]:
    return eager(mode, DiTParams(), 37), compiled(mode, DiTParams(), 37)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_compiled_block_moves_a_third_of_the_bytes_at_most(mode: Mode) -> None:
    """At the published width; nothing is computed."""
    ((plain, fused),) = run_distributed(_counted, 1, mode, limit=400)
    assert 0 < fused.between <= 0.35 * plain.between
    assert 0 < fused.kernels < plain.kernels / 4
