"""Files that Diffusers itself writes mean here what they mean there."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from torch import Tensor

from mochi_trainer.lora import imported, load_file
from mochi_trainer.lora.diffusers_format import METADATA_KEY
from tests.trainer.numerics import difference, draw, tiny_dit
from tests.trainer.tiny_of_diffusers import diffusers_dit

pytestmark = pytest.mark.filterwarnings("ignore:.*In CPU autocast:UserWarning")
SIGMA = 0.4


def inputs() -> tuple[Tensor, Tensor]:
    return draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, lora_alpha=10, target_modules=["attn1.to_q", "ff.net.0.proj"]),
        LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["attn1.to_v", "add_k_proj"]),
        LoraConfig(
            r=4, lora_alpha=4, rank_pattern={"to_q": 2}, alpha_pattern={"to_q": 6}, target_modules=["attn1.to_q", "attn1.to_k"]
        ),
    ],
    ids=["alpha is not the rank", "rank-stabilised", "a rank and alpha of its own for one layer"],
)  # fmt: skip
def test_a_file_that_diffusers_saved_gives_the_velocity_of_diffusers(
    config: LoraConfig, tmp_path: Path
) -> None:
    model = diffusers_dit()
    model.add_adapter(config)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(0.3 * draw(*parameter.shape, seed=index))
    model.save_lora_adapter(tmp_path, weight_name="lora.safetensors")
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as file:
        assert METADATA_KEY in file.metadata()
        assert all(name.startswith("transformer_blocks.") for name in file.keys())  # noqa: SIM118
    ours = copy.deepcopy(tiny_dit(torch.float32))
    load_file(ours, tmp_path / "lora.safetensors")
    x, text = inputs()
    with torch.no_grad():
        expected = model(
            x,
            text,
            timestep=torch.tensor([(1 - SIGMA) * 1000]),
            encoder_attention_mask=torch.ones(1, text.shape[1], dtype=torch.bool),
            return_dict=False,
        )[0]
        plain = tiny_dit(torch.float32)(x, torch.tensor([SIGMA]), text)
        assert difference(ours(x, torch.tensor([SIGMA]), text), expected) <= 2e-5
        assert difference(plain, expected) > 1e-3


def test_alpha_tensors_scale_the_product() -> None:
    module = "transformer.transformer_blocks.0.attn1.to_q"
    a, b = draw(4, 96, dtype=torch.float32), draw(96, 4, seed=1, dtype=torch.float32)
    tensors = {
        f"{module}.lora_A.weight": a,
        f"{module}.lora_B.weight": b,
        f"{module}.alpha": torch.tensor(8.0),
    }
    state, params = imported(tensors, {})
    assert (params.rank, params.alpha, params.targets) == (4, 4.0, ("query",))
    assert torch.equal(state["blocks.0.attn.qkv_x.query.lora_B.weight"], 2 * b)
    assert torch.equal(state["blocks.0.attn.qkv_x.query.lora_A.weight"], a)


def test_lower_ranks_are_filled_up_with_zeros() -> None:
    tensors = {}
    for layer, rank in (("to_q", 2), ("to_v", 4)):
        module = f"transformer.transformer_blocks.1.attn1.{layer}"
        tensors[f"{module}.lora_A.weight"] = draw(rank, 96, seed=rank, dtype=torch.float32)
        tensors[f"{module}.lora_B.weight"] = draw(96, rank, seed=rank, dtype=torch.float32)
    state, params = imported(tensors, {})
    assert (params.rank, params.targets) == (4, ("query", "value"))
    a = state["blocks.1.attn.qkv_x.query.lora_A.weight"]
    assert torch.equal(a[:2], tensors["transformer.transformer_blocks.1.attn1.to_q.lora_A.weight"])
    assert not a[2:].any()
