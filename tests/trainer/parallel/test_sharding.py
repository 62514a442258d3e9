"""Sharding changes where numbers lie, not what they are."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from mochi_trainer.parallel.gradients import measures, settled, synchronise
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import own_part, rows_of, shard, whole
from mochi_trainer.weights import load_dit
from tests.trainer.distributed import run_distributed

CPU = torch.device("cpu")
SHAPE = (1, 12, 2, 4, 6)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 5, 8, 9])
def test_rows_are_those_of_torch_chunk(length: int, world: int) -> None:
    chunks = [chunk.tolist() for chunk in torch.arange(length).chunk(world)]
    chunks += [[]] * (world - len(chunks))
    assert [list(rows_of(length, rank, world)) for rank in range(world)] == chunks


def _inputs(slot: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(slot)
    tokens = 0 if slot == 1 else 6  # one rank has the empty prompt: no gradient may be missing there
    return (
        torch.randn(SHAPE, generator=draws),
        torch.rand(1, generator=draws),
        torch.randn(1, tokens, 64, generator=draws),
    )


def _gradients(
    group: Group, sharded: bool, *, clips: int = 2, copies: int = 1
) -> tuple[float, dict[str, Any]]:
    model = load_dit("nano").requires_grad_(True)
    if sharded:
        shard(model, group, device=CPU, compute=torch.float32, copies=copies)
    share = clips // group.world
    for place in range(share):
        loss = model(*_inputs(group.rank * share + place)).square().mean() / share
        loss.backward()
    parameters = list(model.parameters())
    _, norm = settled(measures(loss.detach(), parameters, group), parameters, group)
    if sharded:
        parts = group.world // copies
        rows = {n: rows_of(p.shape[0], group.rank % parts, parts) for n, p in model.named_parameters()}
        assert all(len(own_part(p)) in (len(rows[n]), len(p)) for n, p in model.named_parameters())
    return norm, {name: whole(p.grad).numpy() for name, p in model.named_parameters() if p.grad is not None}


def _of_ranks(world: int, clips: int, copies: int) -> tuple[float, dict[str, Any]]:
    with joined(ranks_of(os.environ, processes=world), CPU, limit=60) as group:
        return _gradients(group, sharded=True, clips=clips, copies=copies)


@pytest.mark.parametrize(
    ("world", "clips", "copies"),
    [
        pytest.param(2, 2, 1, id="two ranks"),
        pytest.param(2, 2, 2, id="a copy on each of two"),
        pytest.param(4, 4, 2, id="two copies of two"),
        pytest.param(4, 8, 2, id="two copies of two, two clips a rank"),
    ],
)
def test_several_ranks_have_the_gradients_of_one(world: int, clips: int, copies: int) -> None:
    """And their norm, in which a copy must not count twice."""
    torch.set_num_threads(1)
    norm, gradients = _gradients(Group(), sharded=False, clips=clips)
    for other_norm, others in run_distributed(_of_ranks, world, world, clips, copies):
        assert other_norm == pytest.approx(norm, rel=1e-5)
        assert others.keys() == gradients.keys()
        for name, gradient in gradients.items():
            scale = max(1e-6, abs(gradient).max())
            assert abs(others[name] - gradient).max() <= 1e-4 * scale, name


def _names_and_kinds() -> list[set[tuple[str, str]]]:
    with joined(ranks_of(os.environ, processes=2), CPU, limit=60) as group:
        model = load_dit("nano").requires_grad_(True)
        shard(model, group, device=CPU, compute=torch.float32)
        before = {(name, type(p).__name__) for name, p in model.named_parameters()}
        with torch.no_grad():
            model(*_inputs(0))
        return [before, {(name, type(p).__name__) for name, p in model.named_parameters()}]


def test_a_forward_pass_without_a_backward_pass_leaves_the_model_sharded() -> None:
    """Otherwise gradient norm and clipping would miss the parameters outside the blocks after each evaluation."""
    for before, after in run_distributed(_names_and_kinds, 2):
        assert before == after
        assert [name for name, kind in before if kind != "DTensor"] == ["pos_frequencies"]


def _accumulated() -> list[dict[str, Any]]:
    """The gradients of two clips a rank, summed over ranks with each clip, and with the last one only."""
    found = []
    with joined(ranks_of(os.environ, processes=2), CPU, limit=60) as group:
        for once in (False, True):
            model = load_dit("nano").requires_grad_(True)
            shard(model, group, device=CPU, compute=torch.float32)
            for place in range(2):
                if once:
                    synchronise(model, place == 1)
                torch.autograd.backward(model(*_inputs(2 * group.rank + place)).square().mean() / 2)
            found.append(
                {name: whole(p.grad).numpy() for name, p in model.named_parameters() if p.grad is not None}
            )
    return found


def test_gradients_may_be_summed_over_ranks_once_a_step() -> None:
    for each, once in run_distributed(_accumulated, 2):
        assert once.keys() == each.keys()
        for name, gradient in each.items():
            assert abs(once[name] - gradient).max() <= 1e-5 * max(1e-6, abs(gradient).max()), name
