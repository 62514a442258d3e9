"""What reading and writing weights have in common: types, the error, and the file of a whole module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from mochi_trainer.errors import InvalidInputError

FLOAT32_ALWAYS = frozenset({"pos_frequencies"})
"""Parameters that keep float32 whatever the type of the rest: angles lose their meaning in 8 bits of mantissa."""


class WeightsError(InvalidInputError):
    """A file of weights does not fit the model; the message names the file and the tensor."""


def kept_type(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type in which a parameter is kept when the others are kept in `dtype`."""
    exempt = name in FLOAT32_ALWAYS and dtype.itemsize < torch.float32.itemsize
    return torch.float32 if exempt else dtype


def save_weights(module: nn.Module, path: Path, *, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Write the parameters under their names; those that need it stay in float32."""
    state = {
        name: tensor.detach().to("cpu", torch.float32 if name in FLOAT32_ALWAYS else dtype).contiguous()
        for name, tensor in module.state_dict().items()
    }
    save_file(state, path, metadata=dict(metadata))
