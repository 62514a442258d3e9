"""Adapters on the transformer: what they change, and what they never do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mochi_trainer.flow import loss
from mochi_trainer.lora import (
    LoraParams,
    adapter_state,
    attach,
    base_state,
    load_adapter,
    trainable_parameters,
)
from mochi_trainer.lora.targets import PROJECTIONS
from mochi_trainer.model import DiT
from tests.trainer.numerics import TINY, difference, draw, tiny_dit

EVERY = LoraParams(rank=3, alpha=6, targets=tuple(PROJECTIONS))


def adapted(params: LoraParams, dtype: torch.dtype = torch.float64, *, filled: bool = False) -> DiT:
    model = copy.deepcopy(tiny_dit(dtype))
    attach(model, params)
    if filled:
        fill(model)
    return model


def fill(model: DiT) -> None:
    """Give B other values than its zeros."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(trainable_parameters(model).items()):
            if "lora_B" in name:
                parameter.copy_(0.3 * draw(*parameter.shape, seed=index))


def velocity(model: DiT, dtype: torch.dtype = torch.float64) -> Tensor:
    x, text = draw(1, 12, 2, 4, 6, dtype=dtype), draw(1, 5, 64, seed=1, dtype=dtype)
    return model(x, torch.tensor([0.4]), text)


def test_a_new_adapter_changes_nothing() -> None:
    with torch.no_grad():
        assert torch.equal(velocity(adapted(LoraParams())), velocity(tiny_dit()))


def test_splitting_the_fused_layers_changes_nothing_but_rounding() -> None:
    with torch.no_grad():
        assert difference(velocity(adapted(EVERY)), velocity(tiny_dit())) <= 1e-12


def test_a_filled_adapter_changes_the_velocity() -> None:
    with torch.no_grad():
        assert difference(velocity(adapted(LoraParams(), filled=True)), velocity(tiny_dit())) > 1e-3


def test_the_default_targets_are_query_and_value_of_the_visual_stream() -> None:
    names = adapter_state(adapted(LoraParams(rank=4)))
    shapes = {"lora_A": (4, 96), "lora_B": (96, 4)}
    assert {name: tuple(tensor.shape) for name, tensor in names.items()} == {
        f"blocks.{block}.attn.qkv_x.{part}.{matrix}.weight": shape
        for block in range(TINY.depth)
        for part in ("query", "value")
        for matrix, shape in shapes.items()
    }


def test_only_adapters_are_trained_and_they_are_float32_on_any_base() -> None:
    model = adapted(EVERY, torch.bfloat16)
    trainable = trainable_parameters(model)
    assert all(".lora_" in name for name in trainable)
    assert {parameter.dtype for parameter in trainable.values()} == {torch.float32}
    assert len(trainable) == 2 * (12 * TINY.depth - 3)  # the last block writes no text
    assert velocity(model, torch.bfloat16).dtype == torch.bfloat16


def test_the_base_keeps_its_names_its_values_and_gets_no_gradient() -> None:
    before = {name: tensor.clone() for name, tensor in tiny_dit().state_dict().items()}
    model = adapted(EVERY, filled=True)
    loss(velocity(model), draw(1, 12, 2, 4, 6, seed=5)).backward()
    after = base_state(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched <= trainable_parameters(model).keys()


def test_every_adapter_that_the_output_depends_on_gets_a_gradient() -> None:
    model = adapted(EVERY, filled=True)
    loss(velocity(model), draw(1, 12, 2, 4, 6, seed=5)).backward()
    silent = {
        name
        for name, parameter in trainable_parameters(model).items()
        if parameter.grad is None or not parameter.grad.any()
    }
    # nobody reads the text that the last block could write
    assert {name.split(".lora_")[0] for name in silent} == {"blocks.2.attn.qkv_y.query"}


def test_the_effect_is_alpha_over_rank_times_b_a() -> None:
    params = LoraParams(rank=2, alpha=5, targets=("query",))
    model, merged = adapted(params, filled=True), copy.deepcopy(tiny_dit())
    state = adapter_state(model)
    with torch.no_grad():
        for block in range(TINY.depth):
            name = f"blocks.{block}.attn.qkv_x.query"
            delta = 2.5 * state[f"{name}.lora_B.weight"].double() @ state[f"{name}.lora_A.weight"].double()
            merged.blocks[block].attn.qkv_x.weight[:96] += delta
        assert difference(velocity(model), velocity(merged)) <= 1e-6  # adapters compute in float32


def test_state_goes_back_exactly() -> None:
    source, target = adapted(EVERY, filled=True), adapted(EVERY)
    load_adapter(target, adapter_state(source))
    with torch.no_grad():
        assert torch.equal(velocity(source), velocity(target))


def test_state_that_does_not_fit_is_refused_by_name() -> None:
    model = adapted(LoraParams(rank=4))
    state = adapter_state(model)
    name = "blocks.0.attn.qkv_x.query.lora_A.weight"
    with pytest.raises(ValueError, match=f"{name} is missing, 1 such"):
        load_adapter(model, {key: value for key, value in state.items() if key != name})
    with pytest.raises(ValueError, match="stranger is not part of the model, 1 such"):
        load_adapter(model, {**state, "stranger": state[name]})
    with pytest.raises(ValueError, match=rf"{name} must have shape \[4, 96\], got \[2, 96\]"):
        load_adapter(model, {**state, name: state[name][:2]})


def test_the_start_depends_on_the_seed_only() -> None:
    first, again, other = (adapter_state(seeded_adapter(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[name := next(iter(first))], other[name])


def seeded_adapter(seed: int) -> DiT:
    model = copy.deepcopy(tiny_dit())
    torch.rand(1)  # the global generator has no say
    attach(model, LoraParams(rank=4), seed=seed)
    return model


def test_adapters_attach_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = DiT(TINY)
    attach(model, LoraParams())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_dropout_acts_in_training_only() -> None:
    model = adapted(LoraParams(dropout=0.5), filled=True)
    with torch.no_grad():
        assert torch.equal(velocity(model), velocity(model))
        model.train()
        assert not torch.equal(velocity(model), velocity(model))


def test_a_second_set_of_adapters_is_refused() -> None:
    with pytest.raises(ValueError, match="must have no adapters yet"):
        attach(adapted(LoraParams()), LoraParams())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "lora.rank must be at least 1, got 0"),
        ({"alpha": 0}, "lora.alpha must be above 0, got 0"),
        ({"dropout": 1.0}, "lora.dropout must be at least 0 and below 1, got 1.0"),
        ({"targets": ("mlp",)}, r"lora.targets must be some of query, .*, got \['mlp'\]"),
        ({"targets": ()}, r"got \[\]"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraParams(**values)


class Casts(TorchDispatchMode):
    """The shapes of what was brought from bfloat16 to float32."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and (args[0].dtype, out.dtype) == (
            torch.bfloat16,
            torch.float32,
        ):
            self.shapes.append(tuple(out.shape))
        return out


def test_an_adapter_casts_its_matrices_and_not_what_comes_in() -> None:
    model = adapted(LoraParams(rank=3, targets=("query", "value")), torch.bfloat16, filled=True)
    layer = model.blocks[0].attn.qkv_x  # type: ignore[union-attr]
    x = torch.randn(1, 77, layer.in_features, dtype=torch.bfloat16, requires_grad=True)
    with Casts() as casts:
        outputs = layer(x)
        sum(out.float().square().sum() for out in outputs).backward()
    assert {out.dtype for out in outputs} == {torch.bfloat16}
    inside = [shape for shape in casts.shapes if shape != (1, 77, layer.out_features // 3)]
    assert inside
    assert all(3 in shape and 77 not in shape for shape in inside)
    assert {p.grad.dtype for n, p in model.named_parameters() if p.grad is not None} == {torch.float32}
