"""Blocks whose matrices wait in host memory: not a bit is another, two blocks' room is enough, few copies are made in vain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mochi_api.prediction.memory import ROOMS
from mochi_api.spec import TrainingSpec
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.lora import LoraParams, base_state, trainable_parameters
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel import swapping
from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.swapping import matrices, swapped_blocks
from mochi_trainer.train.composition import Adapters, Choices, compose

CPU = torch.device("cpu")
DEPTH = 7
PARAMS = DiTParams(
    depth=DEPTH,
    visual_width=48,
    text_width=32,
    heads=4,
    text_feature_width=32,
    timestep_width=16,
    mlp_multiple=8,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Drawn:
    """Weights by their names."""

    params = PARAMS

    def fill(self, rows: Any) -> None:
        for index, (_, (tensor, _row)) in enumerate(sorted(rows.items())):
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(index)) / 6)


@torch.no_grad()
def with_an_effect(model: DiT) -> None:
    for index, (name, parameter) in enumerate(trainable_parameters(model).items()):
        if ".lora_B." in name:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) / 8)


def composed(swapped: int, *, dropout: float = 0.0, **choices: Any) -> tuple[DiT, torch.optim.Optimizer]:
    params = LoraParams(rank=4, dropout=dropout, targets=("query", "value", "output", "mlp_in", "text_key"))
    found = compose(
        Drawn(),
        Choices(
            **{"compute": torch.float32, "attention": Backend.CPU, "left_alone": 1, "swapped": swapped}
            | choices
        ),
        adapters=Adapters(params=params),
        spec=TrainingSpec.model_validate({"steps": 3, "learningRate": "0.01"}),
        group=Group(),
        device=CPU,
        start=with_an_effect,
    )
    return found.model.train(), found.optimizer


def trained(model: DiT, optimizer: torch.optim.Optimizer, *, steps: int = 3) -> list[Tensor]:
    """The losses of some steps, with an evaluation between them, and the adapters after them."""
    found = []
    for step in range(steps):
        draws = torch.Generator().manual_seed(step)
        x, sigma = torch.randn(1, 12, 2, 4, 6, generator=draws), torch.rand(1, generator=draws)
        text = torch.randn(1, (5, 0, 1)[step % 3], PARAMS.text_feature_width, generator=draws)
        torch.manual_seed(step)  # of the dropout
        loss = model(x, sigma, text).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            found += [loss.detach(), model(x, sigma, text)]
        model.train()
    return [*found, *(each.detach().clone() for each in trainable_parameters(model).values())]


@pytest.mark.parametrize(
    ("kind", "swapped"),
    [*((None, count) for count in (1, 2, 3, DEPTH - 1)), (torch.int8, 4), (torch.float8_e4m3fn, 5)],
    ids=str,
)
def test_not_a_bit_is_another(kind: torch.dtype | None, swapped: int) -> None:
    plain, ours = (trained(*composed(count, base=kind)) for count in (0, swapped))
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_not_a_bit_is_another_in_either_type_and_with_dropout(compute: torch.dtype) -> None:
    plain, ours = (trained(*composed(count, compute=compute, dropout=0.2)) for count in (0, 5))
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_the_base_keeps_names_and_numbers_and_only_what_waits_has_moved() -> None:
    (plain, _), (model, _) = composed(0), composed(3)
    before, after = base_state(plain), base_state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert trainable_parameters(model).keys() == trainable_parameters(plain).keys()
    fetched = [
        index for index, block in enumerate(model.blocks) if all(each.fetch for each in matrices(block))
    ]
    assert fetched == [0, 2, 4]
    assert not any(each.fetch for index in {1, 3, 5, 6} for each in matrices(model.blocks[index]))


def test_two_rooms_are_all_it_takes_however_many_wait_and_one_for_one() -> None:
    largest = sum(-(-layer.weight.nbytes // 256) * 256 for layer in matrices(composed(0)[0].blocks[0]))
    assert ROOMS == swapping.ROOMS
    for count in (1, 2, 3, 6):
        found = swapping.rooms(composed(count)[0])
        assert [room.nbytes for room in found] == [largest] * min(ROOMS, count)
    assert swapping.rooms(composed(0)[0]) == []


def test_a_training_copies_each_block_once_up_and_once_down(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = composed(4)
    begun: list[int] = []
    begin = swapping._Copies.begin

    def counted(self: Any, room: int, target: Tensor, source: Tensor) -> None:
        begun.append(room)
        begin(self, room, target, source)

    monkeypatch.setattr(swapping._Copies, "begin", counted)
    draws = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 12, 2, 4, 6, generator=draws), torch.randn(1, 5, 32, generator=draws)
    counts = []
    for _ in range(4):
        before = len(begun)
        model(x, torch.rand(1, generator=draws), text).square().mean().backward()
        counts.append(len(begun) - before)
    assert counts == [6, 4, 4, 4]  # the first fills both rooms; then two of the four are there at each turn


def test_what_lies_in_a_room_is_never_overwritten_while_it_is_needed() -> None:
    """A block that is not computed again needs its matrices later: torch refuses the overwritten ones."""
    model, _ = composed(0)
    for index, block in enumerate(model.blocks):
        block.forward = type(block).forward.__get__(block)  # no recomputation
        assert index < DEPTH
    swapping.swap(model, CPU, [0, 1, 2, 3])
    draws = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 12, 2, 4, 6, generator=draws), torch.randn(1, 5, 32, generator=draws)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(x, torch.rand(1, generator=draws), text).square().mean().backward()


@pytest.mark.parametrize(("count", "blocks"), [(0, []), (1, [0]), (3, [0, 2, 4]), (6, [0, 1, 2, 3, 4, 5])])
def test_they_lie_evenly_between_the_others_and_the_last_one_is_none(count: int, blocks: list[int]) -> None:
    assert swapped_blocks(DEPTH, count) == blocks
    assert len(set(swapped_blocks(48, 47))) == 47


@pytest.mark.parametrize("count", [-1, DEPTH, 48])
def test_more_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(InvalidInputError, match=f"less than the 7 blocks of the model, got {count}"):
        composed(count)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"left_alone": 2}, "MOCHI_BLOCKS_LEFT_ALONE must be at most 1 with .*blocksToSwap 3, got 2"),
        ({"compiler": "inductor"}, "MOCHI_COMPILE must be left out with .*blocksToSwap 3, got inductor"),
    ],
)
def test_what_cannot_be_combined_is_refused(choice: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        composed(3, **choice)


def test_a_layer_by_itself_is_as_it_was() -> None:
    assert matrices(nn.Linear(3, 4)) == []
