"""The sizes that the formulas know are those of the trainer's model, built without memory."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from mochi_api.prediction import storage
from mochi_api.prediction.memory import all_trained
from mochi_api.prediction.seconds import FIXED_CASES
from mochi_api.prediction.sizes import NETWORKS, Network, adapter_parameters
from mochi_api.prediction.work import Work
from mochi_api.resolved import LEAST_LEVELS
from mochi_api.spec import Target
from mochi_trainer.lora import LoraParams, attach, trainable_parameters
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.presets import PRESETS
from mochi_trainer.train import evaluation
from mochi_trainer.vae import latent_shape
from mochi_trainer.weights.diffusers_folder import SHARD_BYTES

TARGETS: tuple[Target, ...] = get_args(Target)


def built(params: DiTParams) -> DiT:
    with torch.device("meta"):
        return DiT(params)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_layer_has_as_many_parameters_as_the_model(name: str) -> None:
    network, model = NETWORKS[name], built(PRESETS[name]().dit)
    for index, block in enumerate(model.blocks):
        assert network.block_parameters(index) == sum(p.numel() for p in block.parameters())
        layers = {layer.name: layer for layer in network.layers(index)}
        found = {
            name: module for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)
        }
        assert {n: (layer.inputs, layer.outputs, layer.bias) for n, layer in layers.items()} == {
            n: (module.in_features, module.out_features, module.bias is not None)
            for n, module in found.items()
        }
    assert network.parameters == sum(p.numel() for p in model.parameters())


def test_the_published_model_has_ten_billion_parameters() -> None:
    assert NETWORKS["mochi-1"].parameters == 10_027_677_744


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_sizes_are_those_of_the_preset(name: str) -> None:
    dit, network = PRESETS[name]().dit, NETWORKS[name]
    assert network == Network(
        depth=dit.depth,
        width=dit.visual_width,
        text_width=dit.text_width,
        heads=dit.heads,
        patch=dit.patch,
        channels=dit.latent_channels,
        feature_width=dit.text_feature_width,
        text_tokens=dit.text_tokens,
        timestep_width=dit.timestep_width,
        mlp_multiple=dit.mlp_multiple,
    )


@pytest.mark.parametrize("targets", [(target,) for target in TARGETS] + [TARGETS], ids=lambda t: "+".join(t))
def test_adapters_have_as_many_parameters_as_those_attached(targets: tuple[Target, ...]) -> None:
    model = built(DiTParams(depth=3))
    attach(model, LoraParams(rank=8, alpha=8, targets=targets))
    attached = sum(p.numel() for p in trainable_parameters(model).values())
    assert adapter_parameters(Network(depth=3), targets, 8) == attached
    work = Work(
        mode="lora", network=Network(depth=3), frames=37, width=848, height=480, rank=8, targets=targets
    )
    assert all_trained(work) == attached


@pytest.mark.parametrize(("frames", "height", "width"), [(37, 480, 848), (7, 32, 32), (163, 848, 480)])
def test_tokens_are_the_patches_of_the_latents(frames: int, height: int, width: int) -> None:
    count, rows, columns = latent_shape(frames, height, width)
    work = Work(mode="full", network=Network(), frames=frames, width=width, height=height)
    assert work.visual_tokens == count * (rows // 2) * (columns // 2)


def test_numbers_that_both_sides_need_are_the_same() -> None:
    assert storage.SHARD_BYTES == SHARD_BYTES
    assert LEAST_LEVELS * evaluation.CLIPS == FIXED_CASES
