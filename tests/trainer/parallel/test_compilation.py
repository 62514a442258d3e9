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
from mochi_trainer.train.diagnosis import bad_layer
from mochi_trainer.train.draws import Example
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


def composed(compiler: str | None, *, many_sizes: bool = False, group: Group = Group()) -> DiT:  # noqa: B008  # frozen
    """nano with adapters, everything computed again but attention."""
    model = compose(
        Stored(NANO, None),
        Choices(
            compute=torch.float32,
            attention=Backend.CPU,
            left_alone=0,
            compiler=compiler,
            many_sizes=many_sizes,
        ),
        adapters=Adapters(params=LoraParams(rank=4, targets=("query", "value", "mlp_in", "text_key"))),
        spec=TrainingSpec.model_validate({"steps": 1}),
        group=group,
        device=CPU,
        start=no_longer_zero,
    ).model
    return model.train()


def gradients(model: DiT, tokens: int, size: tuple[int, int, int] = (2, 4, 6)) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(tokens)
    x = torch.randn(1, 12, *size, generator=draws)
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


def assert_alike(compiled: DiT, plain: DiT, size: tuple[int, int, int]) -> None:
    """Loss and gradients, with captions of all lengths, each as one vector; what is next to nothing is rounding."""
    for tokens in LENGTHS:
        ours, theirs = gradients(compiled, tokens, size), gradients(plain, tokens, size)
        largest = max(float(each.norm()) for each in theirs)
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            bound = 1e-5 * max(float(other.norm()), 1e-3 * largest)
            assert float((one - other).norm()) <= bound, (size, tokens, index)


SIZES = ((2, 4, 6), (1, 4, 6), (3, 8, 10))
"""Latent frames, rows and columns; a still image, whose tokens come in another order of memory, among them."""


def _all_sizes(sizes: tuple[tuple[int, int, int], ...]) -> tuple[list[int], list[str]]:
    """How many graphs there were after each size with all lengths, with and without gradients, and where they broke."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    plain, compiled = composed(None), composed("aot_eager", many_sizes=True)
    graphs = []
    for size in sizes:
        assert_alike(compiled, plain, size)
        graphs.append(counters["stats"]["unique_graphs"])
    return graphs, list(counters["graph_break"])


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_what_is_compiled_serves_clips_of_all_sizes() -> None:
    assert run_distributed(_all_sizes, 1, SIZES, limit=300) == [([2, 2, 2], [])]


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_a_clip_of_a_single_token_is_compiled_for_itself() -> None:
    assert run_distributed(_all_sizes, 1, ((1, 2, 2), SIZES[0]), limit=300) == [([2, 4], [])]


def _every_kind() -> int:
    """Of clips of several sizes and of a single token, with gradients and in an evaluation."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    model = composed("eager", many_sizes=True)
    for size in (*SIZES, (1, 2, 2), (4, 2, 2)):
        gradients(model.train(), 6, size)
        with torch.no_grad():
            model.eval()(torch.ones(1, 12, *size), torch.ones(1), torch.ones(1, 6, 64))
    return counters["stats"]["unique_graphs"]


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_evaluations_and_single_tokens_have_graphs_of_their_own_and_more_sizes_have_not() -> None:
    """torch gives up at the ninth of one function, unless told otherwise."""
    assert run_distributed(_every_kind, 1, limit=300) == [8]


def _sharing(sizes: tuple[tuple[int, int, int], ...]) -> tuple[int, list[str]]:
    """Two ranks that share each clip: how many graphs were compiled, and where they broke."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    with joined(ranks_of(os.environ, processes=2), CPU, limit=200, context=2) as group:
        plain = composed(None, group=group)
        compiled = composed("aot_eager", many_sizes=len(sizes) > 1, group=group)
        for size in sizes:
            assert_alike(compiled, plain, size)
    return counters["stats"]["unique_graphs"], list(counters["graph_break"])


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(((1, 6, 10),), id="15 tokens"),
        pytest.param(((2, 4, 6), (1, 6, 10), (3, 2, 6)), id="12, 15 and 9 tokens"),
    ],
)
def test_blocks_of_ranks_that_share_clips_are_compiled_with_their_exchanges(
    sizes: tuple[tuple[int, int, int], ...],
) -> None:
    """The exchange of tokens for heads is part of the graph; a size, such as one with padding, may have one of its own."""
    for graphs, breaks in run_distributed(_sharing, 2, sizes, limit=400):
        assert 2 <= graphs <= 2 * len(sizes)
        assert breaks == []


def _diagnosed() -> tuple[str, str]:
    """The layer that is named where a weight is not finite, in blocks that are compiled and have been used."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    model = composed("eager")
    gradients(model, 6)
    draws = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 12, 2, 4, 6, generator=draws), torch.randn(1, 6, 64, generator=draws)
    example = Example(x, torch.rand(1, generator=draws), text, x)
    before = bad_layer(model, example)
    with torch.no_grad():
        model.get_submodule("blocks.1.mlp_x.w2").weight[0, 0] = float("inf")
    return before, bad_layer(model, example)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_of_compiled_blocks_the_layer_that_is_not_finite_is_named_too() -> None:
    ((before, after),) = run_distributed(_diagnosed, 1, limit=200)
    assert before == ""
    assert after.startswith("blocks.1.mlp_x.w2")


def _sharded(compiler: str | None) -> tuple[list[Any], int, list[str]]:
    """Gradients of all weights, sharded over the ranks; how many graphs were compiled, and where they broke."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    with joined(ranks_of(os.environ, processes=2), CPU, limit=100) as group:
        model = compose(
            Stored(NANO, None),
            Choices(
                compute=torch.bfloat16,
                attention=Backend.CPU,
                left_alone=1,
                compiler=compiler,
                many_sizes=True,
            ),
            adapters=None,
            spec=TrainingSpec.model_validate({"steps": 1}),
            group=group,
            device=CPU,
        ).model.train()
        found = []
        for tokens, frames in ((6, 2), (0, 2), (1, 3)):
            draws = torch.Generator().manual_seed(10 * group.rank + tokens)
            x = torch.randn(1, 12, frames + group.rank, 4, 6, generator=draws)
            text = torch.randn(1, tokens, NANO.dit.text_feature_width, generator=draws)
            model(x, torch.rand(1, generator=draws), text).float().square().mean().backward()
            found += [
                whole(p.grad).numpy() for _, p in sorted(model.named_parameters()) if p.grad is not None
            ]
            model.zero_grad()
        return found, counters["stats"]["unique_graphs"], list(counters["graph_break"])


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_compiled_blocks_are_sharded_as_they_are_without() -> None:
    """As mode full composes them, in bfloat16 on two ranks, with clips of several sizes: FSDP2's hooks stay outside the graphs."""
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
