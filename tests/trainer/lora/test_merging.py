"""An adapter added to the weights does what it does beside them, and what Diffusers does when it fuses it."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import MochiTransformer3DModel
from torch import Tensor

from mochi_trainer.lora import (
    LoraParams,
    adapter_state,
    attach,
    export_diffusers,
    merged_state,
    trainable_parameters,
)
from mochi_trainer.lora.combination import Weighted, combined
from mochi_trainer.lora.merging import changes, merged
from mochi_trainer.lora.targets import PROJECTIONS
from mochi_trainer.model import DiT
from mochi_trainer.weights.diffusers_layout import dit_layout
from tests.trainer.numerics import TINY, difference, draw, noted, tiny_dit

PARAMS = {
    "query and value": LoraParams(rank=4, alpha=10),
    "every target": LoraParams(rank=3, alpha=2, targets=tuple(PROJECTIONS)),
    "MLPs, rank-stabilised": LoraParams(rank=4, alpha=3, rslora=True, targets=("mlp_in", "text_mlp_out")),
}


def trained(params: LoraParams, seed: int = 0) -> DiT:
    model = copy.deepcopy(tiny_dit(torch.float32))
    attach(model, params)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(trainable_parameters(model).items()):
            if "lora_B" in name:
                parameter.copy_(0.3 * draw(*parameter.shape, seed=100 * seed + index))
    return model


@torch.no_grad()
def velocity(model: DiT) -> Tensor:
    x, text = draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)
    return model(x, torch.tensor([0.4]), text)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
def test_the_merged_weights_give_the_velocity_of_the_adapter(params: LoraParams) -> None:
    model, plain = trained(params), copy.deepcopy(tiny_dit(torch.float32))
    plain.load_state_dict(merged_state(plain.state_dict(), adapter_state(model), params), strict=True)
    assert difference(velocity(plain), velocity(model)) <= 2e-5
    assert difference(velocity(tiny_dit(torch.float32)), velocity(model)) > 1e-2


@pytest.mark.filterwarnings("ignore:.*In CPU autocast:UserWarning")
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
def test_the_merged_weights_are_those_that_diffusers_fuses(params: LoraParams) -> None:
    state, base = adapter_state(trained(params)), tiny_dit(torch.float32).state_dict()
    theirs = MochiTransformer3DModel(
        num_attention_heads=TINY.heads,
        attention_head_dim=TINY.head_width,
        num_layers=TINY.depth,
        pooled_projection_dim=TINY.text_width,
        text_embed_dim=TINY.text_feature_width,
    )
    theirs.load_state_dict(dit_layout(base, TINY.depth), strict=True)
    theirs.load_lora_adapter(export_diffusers(state, params), prefix="transformer")
    theirs.fuse_lora()
    theirs.unload_lora()
    fused = theirs.state_dict()
    ours = dit_layout(merged_state(base, state, params), TINY.depth)
    assert fused.keys() == ours.keys()
    worst = max(float((ours[name] - fused[name]).abs().max() / fused[name].abs().max()) for name in ours)
    assert noted(worst) <= 2e-6
    assert any(not torch.equal(ours[name], tensor) for name, tensor in dit_layout(base, TINY.depth).items())


def test_a_bfloat16_weight_is_rounded_once() -> None:
    params = LoraParams(rank=8, alpha=8, targets=("output",))
    state = adapter_state(trained(params))
    name = "blocks.1.attn.proj_x.weight"
    base = tiny_dit(torch.float32).state_dict()[name].to(torch.bfloat16)
    a, b = (state[f"blocks.1.attn.proj_x.output.lora_{matrix}.weight"] for matrix in "AB")
    once = (base.float() + b @ a).to(torch.bfloat16)
    twice = base + (b @ a).to(torch.bfloat16)
    found = merged(name, base, changes(state, params)[name])
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, once)
    assert not torch.equal(found, twice)


def test_merging_leaves_the_given_weight_as_it_is() -> None:
    params = LoraParams(rank=4, alpha=4)
    where = changes(adapter_state(trained(params)), params)
    name = "blocks.0.attn.qkv_x.weight"
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        weight = draw(288, 96, dtype=dtype)
        before = weight.clone()
        assert not torch.equal(merged(name, weight, where[name]), weight)
        assert torch.equal(weight, before)


def test_key_rows_keep_every_byte_when_only_query_and_value_have_an_adapter() -> None:
    params = LoraParams(rank=4, alpha=4)
    name = "blocks.0.attn.qkv_x.weight"
    weight = draw(288, 96, dtype=torch.bfloat16)
    found = merged(name, weight, changes(adapter_state(trained(params)), params)[name])
    changed = [
        not torch.equal(ours, theirs) for ours, theirs in zip(found.chunk(3), weight.chunk(3), strict=True)
    ]
    assert changed == [True, False, True]


def test_weighted_adapters_add_up_in_the_weights() -> None:
    first, second = PARAMS["query and value"], LoraParams(rank=2, alpha=2, targets=("value", "mlp_out"))
    states = adapter_state(trained(first)), adapter_state(trained(second, seed=1))
    base = tiny_dit(torch.float32).state_dict()
    together = merged_state(
        base, *combined([Weighted(states[0], first, 0.5), Weighted(states[1], second, -0.25)])
    )
    for name, weight in base.items():
        steps = weight.double()
        for state, params, factor in ((states[0], first, 0.5), (states[1], second, -0.25)):
            alone = changes(state, params).get(name)
            if alone is not None:
                steps = steps + factor * (merged(name, weight, alone).double() - weight.double())
        assert (together[name].double() - steps).abs().max() <= 1e-6


def test_an_adapter_of_another_size_is_refused() -> None:
    params = LoraParams(rank=4, alpha=4)
    where = changes(adapter_state(trained(params)), params)
    with pytest.raises(
        ValueError, match=r"adapter of blocks.0.attn.qkv_x.weight must be for \[128, 128\], got \[96, 96\]"
    ):
        merged("blocks.0.attn.qkv_x.weight", torch.zeros(384, 128), where["blocks.0.attn.qkv_x.weight"])


def test_an_adapter_of_a_deeper_model_is_refused() -> None:
    params = LoraParams(rank=4, alpha=4)
    base = {name: t for name, t in tiny_dit(torch.float32).state_dict().items() if "blocks.2." not in name}
    with pytest.raises(ValueError, match=r"changes blocks.2.attn.qkv_x.weight, which the base does not have"):
        merged_state(base, adapter_state(trained(params)), params)
