"""New adapters that begin as those of a LoRA file: on the first step the model does exactly what it does with the file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi_trainer.lora.adapters import adapter_state
from mochi_trainer.lora.files import read_file
from mochi_trainer.lora.importing import NOTHING, imported
from mochi_trainer.lora.targets import PARTS, LoraParams
from mochi_trainer.model import DiT

Shapes = Mapping[str, tuple[int, ...]]
_LAYER = re.compile(r"blocks\.\d+\.(?P<layer>\w+\.\w+)\.weight")


def continue_from(model: DiT, params: LoraParams, path: Path) -> LoraParams:
    """Fill the adapters of `model`, attached with `params` and still new, from a LoRA file of any tool.

    Return what the file has. Rows of A beyond the file's rank, and targets that it lacks, stay as drawn, and their B
    zero. The scale of `params` is divided out of B: exact when it is a power of two, else rounded once. Raises as
    `read_file`, and ValueError when the file has a higher rank or another target, or belongs to another model.
    """
    state, found = read_file(path)
    own = adapter_state(model)
    features = {name: tensor.shape[1 - _rank_axis(name)] for name, tensor in own.items()}
    check_continues(state, found, params, features)
    _fill(own, state, params.scale)
    return found


def check_header_continues(
    shapes: Shapes,
    metadata: Mapping[str, str],
    params: LoraParams,
    dit: Shapes,
    beside: Mapping[str, Any] = NOTHING,
) -> LoraParams:
    """As `continue_from`, from the header of the file and the transformer's shapes alone: nothing is loaded.

    `beside` is what `adapter_config.json` has.
    """
    state, found = imported({name: _hollow(shape) for name, shape in shapes.items()}, metadata, beside)
    check_continues(state, found, params, dict(_features(dit)))
    return found


def check_continues(
    state: Mapping[str, Tensor], found: LoraParams, params: LoraParams, features: Mapping[str, int]
) -> None:
    """Raise ValueError unless the adapters fit into those of `params`; `features` has, by name, the size besides the rank."""
    if found.rank > params.rank:
        raise ValueError(f"its rank is {found.rank}, lora.rank must be at least that, got {params.rank}")
    if extra := [target for target in found.targets if target not in params.targets]:
        raise ValueError(f"it has adapters for {', '.join(extra)}, which lora.targets does not name")
    for name, tensor in state.items():
        size = features.get(name)
        if size != tensor.shape[1 - _rank_axis(name)]:
            expected = "no such layer" if size is None else f"{size} features"
            raise ValueError(
                f"{name} {list(tensor.shape)} does not belong to this model, which has {expected}"
            )


def _hollow(shape: tuple[int, ...]) -> Tensor:
    """A tensor without memory; of one number, which may be an alpha that is read, with it."""
    return torch.ones(shape) if math.prod(shape) == 1 else torch.empty(shape, device="meta")


def _features(dit: Shapes) -> Iterator[tuple[str, int]]:
    """By name of an adapter's matrix, the columns of the layer for A and its own rows for B."""
    for name, shape in dit.items():
        match = _LAYER.fullmatch(name)
        parts = PARTS.get(match["layer"], ()) if match else ()
        for part in parts:
            stem = f"{name.removesuffix('.weight')}.{part}"
            yield f"{stem}.lora_A.weight", shape[1]
            yield f"{stem}.lora_B.weight", shape[0] // len(parts)


def _rank_axis(name: str) -> int:
    return 0 if ".lora_A." in name else 1


@torch.no_grad()
def _fill(own: Mapping[str, Tensor], state: Mapping[str, Tensor], scale: float) -> None:
    for name, tensor in state.items():
        axis = _rank_axis(name)
        corner = own[name].narrow(axis, 0, tensor.shape[axis])
        corner.copy_(tensor if axis == 0 else tensor / scale)
