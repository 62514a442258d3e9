"""A LoRA file of either format as the start of a new training."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi_trainer.lora import (
    LoraParams,
    adapter_state,
    attach,
    continue_from,
    export_diffusers,
    export_native,
    load_file,
    trainable_parameters,
)
from mochi_trainer.model import DiT
from tests.trainer.numerics import difference, draw, tiny_dit

THEIRS = LoraParams(rank=4, alpha=10, targets=("query", "mlp_in", "text_value"))


def adapted(params: LoraParams, seed: int = 0) -> DiT:
    model = copy.deepcopy(tiny_dit(torch.float32))
    attach(model, params, seed=seed)
    return model


@pytest.fixture(params=["diffusers", "native"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A trained LoRA."""
    model = adapted(THEIRS)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(trainable_parameters(model).items()):
            if "lora_B" in name:
                parameter.copy_(0.3 * draw(*parameter.shape, seed=index))
    path = tmp_path / "lora.safetensors"
    if request.param == "diffusers":
        save_file(export_diffusers(adapter_state(model), THEIRS), path)
    else:
        tensors, metadata = export_native(adapter_state(model), THEIRS)
        save_file(tensors, path, metadata=metadata)
    return path


@torch.no_grad()
def velocity(model: DiT) -> Tensor:
    x, text = draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)
    return model(x, torch.tensor([0.4]), text)


@pytest.mark.parametrize(
    "params",
    [
        THEIRS,
        LoraParams(rank=8, alpha=4, targets=("query", "key", "text_value", "mlp_in", "mlp_out")),
        LoraParams(rank=6, alpha=7, rslora=True, targets=THEIRS.targets),
    ],
    ids=["the same shape", "more rank, other alpha, more targets", "rank-stabilised"],
)
def test_the_first_step_sees_the_model_of_the_file(file: Path, params: LoraParams) -> None:
    expected = copy.deepcopy(tiny_dit(torch.float32))
    load_file(expected, file)
    model = adapted(params, seed=3)
    found = continue_from(model, params, file)
    assert (found.rank, found.targets) == (THEIRS.rank, THEIRS.targets)
    assert difference(velocity(model), velocity(expected)) <= 1e-6
    assert difference(velocity(model), velocity(tiny_dit(torch.float32))) > 1e-3


def test_rows_that_the_file_does_not_have_can_still_learn(file: Path) -> None:
    params = LoraParams(rank=8, alpha=8, targets=THEIRS.targets)
    model = adapted(params)
    continue_from(model, params, file)
    state = adapter_state(model)
    name = "blocks.0.attn.qkv_x.query"
    assert state[f"{name}.lora_A.weight"][4:].any(dim=1).all()
    assert not state[f"{name}.lora_B.weight"][:, 4:].any()


def test_a_file_that_does_not_fit_is_refused_with_the_values(file: Path, tmp_path: Path) -> None:
    small = LoraParams(rank=2, targets=THEIRS.targets)
    with pytest.raises(ValueError, match=r"its rank is 4, lora.rank must be at least that, got 2"):
        continue_from(adapted(small), small, file)
    narrow = LoraParams(rank=4, targets=("query",))
    with pytest.raises(
        ValueError, match=r"it has adapters for mlp_in, text_value, which lora.targets does not name"
    ):
        continue_from(adapted(narrow), narrow, file)
    module, other = "transformer.transformer_blocks.0.attn1.to_q", tmp_path / "other.safetensors"
    save_file(
        {f"{module}.lora_A.weight": torch.zeros(4, 64), f"{module}.lora_B.weight": torch.zeros(64, 4)}, other
    )
    with pytest.raises(
        ValueError, match=r"query.lora_A.weight \[4, 64\] does not belong to this model, which has 96"
    ):
        continue_from(adapted(THEIRS), THEIRS, other)
