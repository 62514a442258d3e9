"""Attach peft's adapters to a transformer, read their state and put it back.

The transformer's own parameters keep their published names and are frozen; those of an adapter are called, for example,
`blocks.0.attn.qkv_x.query.lora_A.weight`. Both matrices are float32 whatever the type of the base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mochi_trainer import seeds
from mochi_trainer.lora.split import SplitLinear
from mochi_trainer.lora.targets import PARTS, PROJECTIONS, LoraParams
from mochi_trainer.model import DiT

ADAPTER = "default"


def attach(model: DiT, params: LoraParams, *, seed: int = 0) -> None:
    """Freeze `model` and add one adapter to each target of each block, in place.

    A starts from `seed`, B from zero, so that nothing changes yet; on the meta device `draw` does that later. Raises ValueError when `model` has adapters already.
    """
    from peft import (
        LoraConfig,
        inject_adapter_in_model,
    )  # takes seconds to import, and exports do not need it

    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("the model must have no adapters yet")
    chosen = [PROJECTIONS[target] for target in params.targets]
    for block in model.blocks:
        for layer in {projection.layer for projection in chosen}:
            _split(block, layer)
    inject_adapter_in_model(
        LoraConfig(
            r=params.rank,
            lora_alpha=params.alpha,  # type: ignore[arg-type]  # declared int, used as a factor
            use_rslora=params.rslora,
            lora_dropout=params.dropout,
            target_modules=[f"{projection.layer}.{projection.part}" for projection in chosen],
        ),
        model,
        adapter_name=ADAPTER,
    )
    for parameter in _adapters(model).values():
        parameter.data = parameter.data.float()
    draw(model, seed)
    model.train(model.training)  # modules made here start in training mode, with dropout


def _split(block: nn.Module, layer: str) -> None:
    """Replace a layer by one that computes its parts by themselves; the last block lacks some layers."""
    owner, _, name = layer.partition(".")
    linear = getattr(getattr(block, owner, None), name, None)
    if linear is not None:
        setattr(block.get_submodule(owner), name, SplitLinear(linear, PARTS[layer]))


@torch.no_grad()
def draw(model: nn.Module, seed: int) -> None:
    """Give attached adapters the numbers with which they start: every A from a stream of its own, every B zero.

    peft would take the process's global generator. On the meta device nothing happens.
    """
    for index, (name, parameter) in enumerate(_adapters(model).items()):
        if parameter.device.type == "meta":
            continue
        if ".lora_A." in name:
            drawn = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(
                drawn, a=math.sqrt(5), generator=seeds.stream(seed, "adapter", step=index)
            )
            parameter.copy_(drawn)
        else:
            parameter.zero_()


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by their names in the model: the adapters, or all without any."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' matrices, detached, by public name; empty when there are none."""
    return {_public(name): parameter.detach() for name, parameter in _adapters(model).items()}


def load_adapter(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy what `adapter_state` gave into attached adapters; ValueError names a missing, extra or misshapen tensor."""
    own = {_public(name): parameter for name, parameter in _adapters(model).items()}
    if problems := sorted(own.keys() ^ state.keys()):
        where = "missing" if problems[0] in own else "not part of the model"
        raise ValueError(f"adapter does not fit: {problems[0]} is {where}, {len(problems)} such tensors")
    for name, parameter in own.items():
        if parameter.shape != state[name].shape:
            raise ValueError(f"{name} must have shape {list(parameter.shape)}, got {list(state[name].shape)}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The transformer's own parameters, detached, by published name, with or without adapters attached."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if ".lora_" not in name}


def _adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


def _public(name: str) -> str:
    return name.replace(f".{ADAPTER}.", ".")
