"""LoRA files of either format, read and attached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mochi_trainer.lora.adapters import attach, load_adapter
from mochi_trainer.lora.diffusers_format import import_diffusers
from mochi_trainer.lora.native_format import import_native
from mochi_trainer.lora.targets import LoraParams
from mochi_trainer.model import DiT


def read_file(path: Path | str) -> tuple[dict[str, Tensor], LoraParams]:
    """The adapters of a LoRA file with Diffusers' or native names, alpha / rank folded into B, on the CPU.

    Raises ValueError when it is no LoRA of this model or no whole safetensors file, FileNotFoundError when it is absent.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise ValueError(f"{Path(path).name} is not a whole safetensors file: {error}") from error
    return state_of(tensors, metadata)


def state_of(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, Tensor], LoraParams]:
    """As `read_file`, of the content of a file. Raises ValueError when it is no LoRA of this model."""
    if tensors and all(name.endswith((".lora_A", ".lora_B")) for name in tensors):
        return import_native(tensors, metadata)
    return import_diffusers(tensors, metadata)


def load_file(model: DiT, path: Path | str) -> LoraParams:
    """Attach the adapters of a LoRA file to `model`, in place, ready for sampling; return their shape.

    Raises as `read_file`, and ValueError when the file does not fit the model or the model has adapters already.
    """
    state, params = read_file(path)
    attach_state(model, state, params)
    return params


def attach_state(model: DiT, state: dict[str, Tensor], params: LoraParams) -> None:
    """Attach adapters with these matrices to `model`, on its device, ready for sampling."""
    attach(model, params)
    load_adapter(model, state)
    model.to(next(model.parameters()).device).eval()
