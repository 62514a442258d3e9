"""LoRA files of any tool, read and attached."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mochi_trainer.documents import json_object
from mochi_trainer.lora.adapters import adapter_state, attach, load_adapter
from mochi_trainer.lora.folders import lora_in
from mochi_trainer.lora.importing import CONFIG, NOTHING, config_wanted, imported
from mochi_trainer.lora.pickles import BEGINNINGS, conversion
from mochi_trainer.lora.targets import LoraParams
from mochi_trainer.model import DiT


def read_file(path: Path | str) -> tuple[dict[str, Tensor], LoraParams]:
    """The adapters of a LoRA file, as `imported` tells, on the CPU; of a folder, those of its one file.

    Raises ValueError when it is no LoRA of this model, has a number that is not finite or is no whole safetensors file,
    FileNotFoundError when it is absent.
    """
    file = file_at(Path(path))
    try:
        with safe_open(file, framework="pt") as whole:
            metadata = whole.metadata() or {}
            tensors = {name: whole.get_tensor(name) for name in whole.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        with file.open("rb") as opened:
            beginning = opened.read(4)
        what = next((what for start, what in BEGINNINGS.items() if beginning.startswith(start)), None)
        if what is not None:
            raise ValueError(f"{file.name} is {what}: {conversion(file.name)}") from error
        raise ValueError(f"{file.name} is not a whole safetensors file: {error}") from error
    return imported(tensors, metadata, config_beside(file, tensors))


def tensor_names(file: Path) -> list[str]:
    """Of a safetensors file, from its header; none for a file of another kind, which `read_file` refuses."""
    try:
        with safe_open(file, framework="pt") as whole:
            return list(whole.keys())
    except SafetensorError:
        return []


def file_at(path: Path) -> Path:
    """The LoRA file at `path`, which may be its folder.

    Raises ValueError when the folder has none, or several, and when it is a device or the like.
    """
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is neither a file nor a folder")
        return path
    return path / lora_in((entry.name for entry in path.iterdir() if entry.is_file()), str(path))


def config_beside(file: Path, tensors: Collection[str]) -> Mapping[str, Any]:
    """What peft's configuration beside `file`, with these tensors, says; empty where it keeps none.

    Raises ValueError when it cannot be read.
    """
    if not config_wanted(file.name, tensors):
        return NOTHING
    try:
        return config_of((file.parent / CONFIG).read_bytes())
    except FileNotFoundError:
        return NOTHING
    except IsADirectoryError as error:
        raise ValueError(f"{CONFIG} cannot be read: it is a folder") from error


def config_of(data: bytes) -> Mapping[str, Any]:
    """The content of an `adapter_config.json`. Raises ValueError when it is not one."""
    try:
        return json_object(data)
    except ValueError as error:
        raise ValueError(f"{CONFIG} cannot be read: {error}") from error


def load_file(model: DiT, path: Path | str) -> LoraParams:
    """Attach the adapters of a LoRA file to `model`, in place, ready for sampling; return their shape.

    Raises as `read_file`, and ValueError when the file does not fit the model or the model has adapters already.
    """
    state, params = read_file(path)
    attach_state(model, state, params)
    return params


def attach_state(model: DiT, state: dict[str, Tensor], params: LoraParams) -> None:
    """Attach adapters with these matrices to `model`, on its device, ready for sampling.

    Layers of the targets that have none, as where a tool trained some of the blocks, stay as they are.
    """
    attach(model, params)
    without = {name: torch.zeros_like(own) for name, own in adapter_state(model).items() if name not in state}
    load_adapter(model, without | state)
    model.to(next(model.parameters()).device).eval()
