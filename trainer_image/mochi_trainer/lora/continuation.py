"""New adapters that begin as those of a LoRA file: on the first step the model does exactly what it does with the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mochi_trainer.lora.adapters import adapter_state
from mochi_trainer.lora.files import read_file
from mochi_trainer.lora.targets import LoraParams
from mochi_trainer.model import DiT


def continue_from(model: DiT, params: LoraParams, path: Path) -> LoraParams:
    """Fill the adapters of `model`, attached with `params` and still new, from a file of either format.

    Return what the file has. Rows of A beyond the file's rank, and targets that it lacks, stay as drawn, and their B
    zero. The scale of `params` is divided out of B: exact when it is a power of two, else rounded once. Raises as
    `read_file`, and ValueError when the file has a higher rank or another target, or belongs to another model.
    """
    state, found = read_file(path)
    if found.rank > params.rank:
        raise ValueError(f"its rank is {found.rank}, lora.rank must be at least that, got {params.rank}")
    if extra := [target for target in found.targets if target not in params.targets]:
        raise ValueError(f"it has adapters for {', '.join(extra)}, which lora.targets does not name")
    _fill(adapter_state(model), state, params.scale)
    return found


@torch.no_grad()
def _fill(own: Mapping[str, Tensor], state: Mapping[str, Tensor], scale: float) -> None:
    for name, tensor in state.items():
        target = own.get(name)
        axis = 0 if ".lora_A." in name else 1
        if target is None or target.shape[1 - axis] != tensor.shape[1 - axis]:
            expected = "no such layer" if target is None else f"{target.shape[1 - axis]} features"
            raise ValueError(
                f"{name} {list(tensor.shape)} does not belong to this model, which has {expected}"
            )
        corner = target.narrow(axis, 0, tensor.shape[axis])
        corner.copy_(tensor if axis == 0 else tensor / scale)
