"""The shapes that docs/explanation/one-training-step.md tells are those of a step on the published sizes, without memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mochi_trainer.lora import LoraParams, attach, trainable_parameters
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.vae import Encoder, EncoderParams, latent_shape

TEXT_TOKENS = 30
FRAMES, HEIGHT, WIDTH = 85, 480, 848


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[3] / "docs/explanation/one-training-step.md").read_text()


def shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


@pytest.mark.filterwarnings("ignore:.*In CPU autocast:UserWarning")
def test_the_shapes_on_the_page_are_those_of_the_model(page: str) -> None:
    seen: dict[str, str] = {}

    def keep(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen[name] = shape(output if isinstance(output, Tensor) else output[0])

        module.register_forward_hook(hook)

    with torch.device("meta"):
        model = DiT(DiTParams()).to(torch.bfloat16)
        z = torch.empty(1, 12, *latent_shape(FRAMES, HEIGHT, WIDTH))
        text = torch.empty(1, TEXT_TOKENS, 4096, dtype=torch.bfloat16)
        block = model.blocks[0]
        keep("patches", model.x_embedder)
        keep("text", model.t5_yproj)
        keep("pooled text", model.t5_y_embedder)
        keep("modulation", block.mod_x)
        keep("query", block.attn.qkv_x)
        keep("hidden", block.mlp_x.w1)
        keep("velocity of patches", model.final_layer)
        velocity = model(z, torch.empty(1), text)
    assert velocity.shape == z.shape
    seen |= {"latents": shape(z), "captions": shape(text)}
    assert {name: found for name, found in seen.items() if found not in page} == {}


def test_the_adapter_on_the_page_has_the_size_of_the_default_targets(page: str) -> None:
    with torch.device("meta"):
        model = DiT(DiTParams())
        attach(model, LoraParams())
    count = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    assert f"{count:,}" in page


def test_the_posterior_on_the_page_is_that_of_the_encoder(page: str) -> None:
    with torch.device("meta"):
        posterior = Encoder(EncoderParams())(torch.empty(1, 3, FRAMES, HEIGHT, WIDTH))
    assert shape(posterior.mean) in page
    assert f"1 x 3 x {FRAMES} x {HEIGHT} x {WIDTH}" in page
