"""The transformer as training left it: the base with the stored adapter, or the tuned weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.lora import LoraParams, attach, load_adapter
from mochi_trainer.lora.targets import PROJECTIONS
from mochi_trainer.model import DiT
from mochi_trainer.presets import WeightsError, load_dit
from mochi_trainer.storage import Store

_PREFIX = "transformer.transformer_blocks."
_LAYERS = {p.diffusers: f"attn.{p.layer}.{p.part}" for p in PROJECTIONS.values()}


def tuned_dit(
    run: RunFile, store: Store, source: Path | None, folder: Path, *, device: torch.device, dtype: torch.dtype
) -> DiT:
    """The model of the run whose artifacts are in `store`; `folder` is for downloads.

    Raises MissingObjectError when training left no artifact, InvalidInputError when it does not fit the base.
    """
    try:
        if run.mode == "full":
            store.get(layout.WEIGHTS, folder / "dit.safetensors")
            return load_dit(run.model.preset, folder, device=device, dtype=dtype)
        store.get(layout.LORA, folder / "lora.safetensors")
        model = load_dit(run.model.preset, source, device=device, dtype=dtype)
        with_adapter(model, folder / "lora.safetensors")
    except (WeightsError, FileNotFoundError, SafetensorError, ValueError) as error:
        raise InvalidInputError(f"the tuned weights cannot be used: {error}") from error
    return model


def with_adapter(model: DiT, path: Path) -> None:
    """Attach the adapter of a LoRA file (Diffusers' names, alpha / rank folded in) to `model`, in place.

    Raises ValueError when the file does not fit.
    """
    with safe_open(path, framework="pt") as file:
        details = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    state = own_names(tensors)
    ranks = {tensor.shape[0] for name, tensor in state.items() if name.endswith("lora_A.weight")}
    if len(ranks) != 1:
        raise ValueError(f"{path.name} must have adapters of one rank, got {sorted(ranks)}")
    targets = [target for target in PROJECTIONS if target in details.get("targets", "").split(",")]
    rank = ranks.pop()
    attach(model, LoraParams(rank=rank, alpha=float(rank), targets=tuple(targets)))
    load_adapter(model, state)
    device = next(model.parameters()).device
    model.to(device).eval()


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Diffusers' names of an adapter's matrices as `mochi_trainer.lora.load_adapter` takes them."""
    state = {}
    for name, tensor in tensors.items():
        block, _, rest = name.removeprefix(_PREFIX).partition(".attn1.")
        layer, _, matrix = rest.partition(".lora_")
        if not name.startswith(_PREFIX) or layer not in _LAYERS:
            raise ValueError(f"{name} is no adapter of this model")
        state[f"blocks.{block}.{_LAYERS[layer]}.lora_{matrix}"] = tensor
    return state
