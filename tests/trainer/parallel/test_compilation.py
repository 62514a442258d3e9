"""Blocks are compiled once, for captions of every length, to what they are without."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from mochi_api.spec import TrainingSpec
from mochi_trainer.lora import LoraParams, trainable_parameters
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.group import Group
from mochi_trainer.presets import preset_named
from mochi_trainer.train.composition import Adapters, Choices, Stored, compose
from tests.trainer.compiled_bytes import Mode, compiled, eager

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


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_blocks_with_adapters_and_recomputation_are_compiled_twice_for_all_lengths() -> None:
    """One graph for the last block, which leaves the text alone, and one for all others; no break."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    plain, compiled = composed(None), composed("aot_eager")
    for tokens in LENGTHS:
        for ours, theirs in zip(gradients(compiled, tokens), gradients(plain, tokens), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7), tokens
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_compiled_block_moves_a_third_of_the_bytes_at_most(mode: Mode) -> None:
    """At the published width; nothing is computed."""
    plain, fused = eager(mode, DiTParams(), 37), compiled(mode, DiTParams(), 37)
    assert 0 < fused.between <= 0.35 * plain.between
    assert 0 < fused.kernels < plain.kernels / 4
