"""Exported adapters do in other tools what they do here, and come back."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from mochi_trainer.lora import (
    LoraParams,
    adapter_state,
    attach,
    export_diffusers,
    export_native,
    imported,
    load_adapter,
    trainable_parameters,
)
from mochi_trainer.lora.targets import PROJECTIONS
from mochi_trainer.model import DiT
from tests.trainer.numerics import TINY, difference, draw, tiny_dit
from tests.trainer.tiny_of_diffusers import diffusers_dit

PARAMS = {
    "query and value": LoraParams(rank=4, alpha=10),
    "more in one stream than in the other": LoraParams(
        rank=3, alpha=5, targets=("query", "value", "output", "text_value")
    ),
    "every target": LoraParams(rank=3, alpha=2, targets=tuple(PROJECTIONS)),
    "MLPs, rank-stabilised": LoraParams(rank=4, alpha=3, rslora=True, targets=("mlp_in", "text_mlp_out")),
}
SIGMA = 0.4


def trained(params: LoraParams) -> DiT:
    model = copy.deepcopy(tiny_dit(torch.float32))
    attach(model, params)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(trainable_parameters(model).items()):
            if "lora_B" in name:
                parameter.copy_(0.3 * draw(*parameter.shape, seed=index))
    return model


def inputs() -> tuple[Tensor, Tensor]:
    return draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)


@torch.no_grad()
def velocity(model: DiT) -> Tensor:
    x, text = inputs()
    return model(x, torch.tensor([SIGMA]), text)


def velocity_of_diffusers(adapter: dict[str, Tensor]) -> Tensor:
    model = diffusers_dit()
    model.load_lora_adapter(adapter, prefix="transformer")
    return velocity_of(model)


@torch.no_grad()
def velocity_of(model: MochiTransformer3DModel) -> Tensor:
    x, text = inputs()
    mask = torch.ones(1, text.shape[1], dtype=torch.bool)
    timestep = torch.tensor([(1 - SIGMA) * 1000])
    return model(x, text, timestep=timestep, encoder_attention_mask=mask, return_dict=False)[0]


@pytest.mark.filterwarnings("ignore:.*In CPU autocast:UserWarning")
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
def test_diffusers_loads_the_adapter_and_gives_the_same_velocity(params: LoraParams) -> None:
    model = trained(params)
    ours = velocity(model)
    theirs = velocity_of_diffusers(export_diffusers(adapter_state(model), params))
    assert difference(theirs, ours) <= 2e-5
    assert difference(velocity(tiny_dit(torch.float32)), ours) > 1e-2


@pytest.mark.filterwarnings("ignore")
def test_the_pipeline_of_diffusers_loads_the_file_as_the_card_says(tmp_path: Path) -> None:
    params = PARAMS["every target"]
    model = trained(params)
    metadata = {"format": "pt", "rank": "3", "alpha": "2"}
    save_file(export_diffusers(adapter_state(model), params), tmp_path / "lora.safetensors", metadata)
    transformer = diffusers_dit()
    pipe = MochiPipeline(
        FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    assert difference(velocity_of(transformer), velocity(model)) <= 2e-5


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
def test_the_fused_adapter_added_to_the_published_weights_gives_the_same_velocity(params: LoraParams) -> None:
    model = trained(params)
    tensors, _ = export_native(adapter_state(model), params)
    merged = copy.deepcopy(tiny_dit(torch.float32))
    with torch.no_grad():
        for name, a in tensors.items():
            if name.endswith("lora_A"):
                layer = merged.get_submodule(name.removesuffix(".lora_A"))
                layer.weight += tensors[name.replace("lora_A", "lora_B")] @ a
    assert difference(velocity(merged), velocity(model)) <= 2e-5


def test_fused_names_ranks_and_metadata_are_those_that_loaders_expect() -> None:
    params = LoraParams(rank=4, alpha=10, targets=("query", "value", "output"))
    tensors, metadata = export_native(adapter_state(trained(params)), params)
    assert {
        name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("blocks.0.")
    } == {
        "blocks.0.attn.qkv_x.lora_A": (8, 96),
        "blocks.0.attn.qkv_x.lora_B": (288, 8),
        "blocks.0.attn.proj_x.lora_A": (4, 96),
        "blocks.0.attn.proj_x.lora_B": (96, 4),
    }
    assert json.loads(metadata["kwargs"]) == {
        "qkv_proj_lora_rank": 8,
        "qkv_proj_lora_alpha": 8,
        "qkv_proj_lora_dropout": 0.0,
        "out_proj_lora_rank": 4,
        "out_proj_lora_alpha": 4,
        "out_proj_lora_dropout": 0.0,
    }


def test_all_fused_adapters_of_a_kind_have_the_rank_that_the_metadata_tells_the_published_code() -> None:
    """It makes one size of adapter for both streams, and refuses tensors of another."""
    params = PARAMS["more in one stream than in the other"]
    tensors, metadata = export_native(adapter_state(trained(params)), params)
    kwargs = json.loads(metadata["kwargs"])
    for name, tensor in tensors.items():
        rank = kwargs["qkv_proj_lora_rank" if ".qkv_" in name else "out_proj_lora_rank"]
        assert tensor.shape[0 if name.endswith("lora_A") else 1] == rank, name
    assert {kwargs["qkv_proj_lora_rank"], kwargs["out_proj_lora_rank"]} == {6, 3}


def test_a_file_without_the_zeros_that_fill_up_is_read_too() -> None:
    params = PARAMS["more in one stream than in the other"]
    tensors, metadata = export_native(adapter_state(trained(params)), params)
    short = {
        name: tensor[: params.rank] if name.endswith("A") else tensor[:, : params.rank].contiguous()
        for name, tensor in tensors.items()
        if ".qkv_y." in name
    }
    (ours, found), (theirs, expected) = (imported(each, metadata) for each in (tensors | short, tensors))
    assert found == expected
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_names_for_diffusers_are_those_of_its_layers() -> None:
    params = LoraParams(targets=("query", "value"))
    names = export_diffusers(adapter_state(trained(params)), params)
    assert set(names) == {
        f"transformer.transformer_blocks.{block}.attn1.{layer}.lora_{matrix}.weight"
        for block in range(TINY.depth)
        for layer in ("to_q", "to_v")
        for matrix in "AB"
    }


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
def test_an_exported_adapter_comes_back(params: LoraParams) -> None:
    model = trained(params)
    exported = export_diffusers(adapter_state(model), params)
    state, found = imported(exported, {})
    assert found == LoraParams(rank=params.rank, alpha=params.rank, targets=params.targets)
    other = copy.deepcopy(tiny_dit(torch.float32))
    attach(other, found)
    load_adapter(other, state)
    assert difference(velocity(other), velocity(model)) <= 1e-6
    again = export_diffusers(adapter_state(other), found)
    assert again.keys() == exported.keys()
    assert all(torch.equal(again[name], exported[name]) for name in again)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
def test_a_native_file_of_ours_comes_back_as_it_was(params: LoraParams) -> None:
    model = trained(params)
    tensors, metadata = export_native(adapter_state(model), params)
    state, found = imported(tensors, metadata)
    assert found == LoraParams(rank=params.rank, alpha=params.rank, targets=params.targets)
    expected = {
        name: tensor * params.scale if "lora_B" in name else tensor
        for name, tensor in adapter_state(model).items()
    }
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    again, kwargs = export_native(state, found)
    assert kwargs == metadata
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def foreign(
    qkv_alpha: float, *, qkv_rank: int = 4, out_rank: int = 2
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file as the published fine-tuner writes it: one adapter for query, key and value together."""
    tensors: dict[str, Tensor] = {}
    for block in range(TINY.depth):
        for seed, (layer, rank, rows) in enumerate((("qkv_x", qkv_rank, 288), ("proj_x", out_rank, 96))):
            prefix = f"blocks.{block}.attn.{layer}"
            tensors[f"{prefix}.lora_A"] = 0.2 * draw(rank, 96, seed=10 * block + seed, dtype=torch.float32)
            tensors[f"{prefix}.lora_B"] = 0.2 * draw(
                rows, rank, seed=10 * block + seed + 5, dtype=torch.float32
            )
    kwargs = {
        "qkv_proj_lora_rank": qkv_rank, "qkv_proj_lora_alpha": qkv_alpha,
        "out_proj_lora_rank": out_rank, "out_proj_lora_alpha": out_rank,
    }  # fmt: skip
    return tensors, {"kwargs": json.dumps(kwargs)}


def test_a_fused_adapter_with_one_shared_a_does_the_same_in_separate_projections() -> None:
    tensors, metadata = foreign(qkv_alpha=8)
    state, params = imported(tensors, metadata)
    assert params == LoraParams(rank=4, alpha=4, targets=("query", "key", "value", "output"))
    loaded = copy.deepcopy(tiny_dit(torch.float32))
    attach(loaded, params)
    load_adapter(loaded, state)
    merged = copy.deepcopy(tiny_dit(torch.float32))
    with torch.no_grad():
        for name, a in tensors.items():
            if name.endswith("lora_A"):
                factor = 2 if "qkv" in name else 1
                layer = merged.get_submodule(name.removesuffix(".lora_A"))
                layer.weight += factor * tensors[name.replace("lora_A", "lora_B")] @ a
    assert difference(velocity(loaded), velocity(merged)) <= 2e-5
    assert difference(velocity(loaded), velocity(tiny_dit(torch.float32))) > 1e-2


def test_a_shared_a_is_copied_number_by_number() -> None:
    tensors, metadata = foreign(qkv_alpha=8)
    state, _ = imported(tensors, metadata)
    for index, part in enumerate(("query", "key", "value")):
        prefix = f"blocks.1.attn.qkv_x.{part}"
        assert torch.equal(state[f"{prefix}.lora_A.weight"], tensors["blocks.1.attn.qkv_x.lora_A"])
        rows = tensors["blocks.1.attn.qkv_x.lora_B"][index * 96 : (index + 1) * 96]
        assert torch.equal(state[f"{prefix}.lora_B.weight"], 2 * rows)


def test_a_native_file_without_metadata_has_alpha_equal_to_rank() -> None:
    tensors, _ = foreign(qkv_alpha=4)
    ours, theirs = (imported(tensors, metadata)[0] for metadata in ({}, foreign(qkv_alpha=4)[1]))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_native_files_that_do_not_fit_are_refused() -> None:
    tensors, metadata = foreign(qkv_alpha=8)
    a = tensors["blocks.0.attn.qkv_x.lora_A"]
    with pytest.raises(ValueError, match=r"blocks.0.mlp.w1.lora_A is no adapter of this model"):
        imported({"blocks.0.mlp.w1.lora_A": a}, {})
    with pytest.raises(ValueError, match=r"blocks.0.attn.qkv_x.lora_B is missing"):
        imported({"blocks.0.attn.qkv_x.lora_A": a}, {})
    with pytest.raises(ValueError, match=r"lora_A \[4, 96\] and .*lora_B \[288, 3\] do not belong together"):
        imported({**tensors, "blocks.0.attn.qkv_x.lora_B": torch.zeros(288, 3)}, metadata)
    with pytest.raises(
        ValueError, match="qkv_x must have a stacked adapter for query, value, got a shared one"
    ):
        imported(tensors, metadata | {"targets": "query,value"})
    with pytest.raises(ValueError, match="the metadata key rank must be a number, got 'x'"):
        imported(tensors, metadata | {"rank": "x", "targets": "query"})
    with pytest.raises(ValueError, match="the metadata key kwargs must give rank and alpha"):
        imported(tensors, {"kwargs": '{"qkv_proj_lora_alpha": 8}'})


def test_files_that_are_no_adapter_of_this_model_are_refused() -> None:
    exported = export_diffusers(adapter_state(trained(LoraParams(rank=4))), LoraParams(rank=4))
    name = "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"
    with pytest.raises(ValueError, match=r"unet.x is no adapter of this model"):
        imported({"unet.x": exported[name]}, {})
    with pytest.raises(
        ValueError, match=r"to_q.lora_A.weight \[2, 96\] and .*to_q.lora_B.weight \[96, 4\] do not"
    ):
        imported({**exported, name: exported[name][:2]}, {})
    with pytest.raises(
        ValueError, match=r"^transformer\.transformer_blocks\.0\.attn1\.to_q\.lora_A\.weight is missing"
    ):
        imported({key: tensor for key, tensor in exported.items() if key != name}, {})
    with pytest.raises(ValueError, match="the metadata key lora_adapter_metadata cannot be read"):
        imported(exported, {"lora_adapter_metadata": "[1"})
    with pytest.raises(ValueError, match="must have adapters, got none"):
        imported({}, {})
