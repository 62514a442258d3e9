"""The content of a LoRA file, whichever tool wrote it, as the adapters of this model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mochi_trainer.lora.diffusers_format import in_order
from mochi_trainer.lora.fused import Stacked, separated, stacked
from mochi_trainer.lora.names import BY_DIFFUSERS, PEFT, PEFT_FILE, Kind, Place, other_half, piece
from mochi_trainer.lora.pairs import Found, assembled
from mochi_trainer.lora.refusals import config_refusal, lookalike, refusal
from mochi_trainer.lora.scales import Scales, peft_config
from mochi_trainer.lora.targets import PARTS, PROJECTIONS, LoraParams

CONFIG = "adapter_config.json"
"""peft's file beside its `adapter_model.safetensors`; alpha is nowhere else."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


def config_wanted(file: str, tensors: Iterable[str]) -> bool:
    """Whether peft, or a tool that calls it, wrote the file of this name with these tensors: `CONFIG` belongs to it."""
    return file == PEFT_FILE or any(name.startswith(PEFT) for name in tensors)


class Named(NamedTuple):
    """A tensor with the name that it has in its file."""

    name: str
    tensor: Tensor


Matrices = dict[Kind, Named]


def imported(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], beside: Mapping[str, Any] = NOTHING
) -> tuple[dict[str, Tensor], LoraParams]:
    """The tensors of a LoRA file as an `adapter_state`, and what `attach` needs for it.

    `beside` is what `adapter_config.json` has. Known are the names of Diffusers' layers and of the published ones with
    the prefixes and endings of Diffusers, peft, ComfyUI, diffusion-pipe and kohya's scripts. The scale of an adapter
    comes from its `.alpha`, else from peft's configuration, else from the metadata of the published fine-tuner, else
    it is 1, as every loader takes it; it is folded into B: exact when it is a power of two, else rounded once to
    float32. Query, key and value of a fused layer share its A: each gets a copy with its own rows of B, the same
    numbers in the same products; a file of `export_native` comes back as it was. Adapters of lower rank are filled up
    with zeros to the highest.

    Raises ValueError, with the tensor's name, for one that is no adapter of this model (with the method, tool or model
    it is of, where its name tells), for a matrix without its other half, for matrices that do not belong together and
    for a number that is not finite.
    """
    places = _by_place(tensors)
    config = peft_config(metadata, beside)
    for why in (config_refusal(config), lookalike(places, config)):
        if why is not None:
            raise ValueError(str(why))
    if name := next((name for name in tensors if name.startswith(PEFT)), None):
        _check_alpha(name, beside)
    scales, said = Scales(config, metadata), stacked(metadata)
    found: list[Found] = []
    for place, matrices in sorted(places.items()):
        found += _found(place, matrices, scales, said)
    return assembled(found)


def _check_alpha(name: str, beside: Mapping[str, Any]) -> None:
    if not beside:
        raise ValueError(
            f"{name} is of peft, which keeps alpha in {CONFIG}: it must lie beside the file, and does not"
        )
    if beside.get("lora_alpha") is None:
        raise ValueError(f"{name} is of peft, which keeps alpha in {CONFIG}: it must have lora_alpha there")


def _by_place(tensors: Mapping[str, Tensor]) -> dict[Place, Matrices]:
    places: dict[Place, Matrices] = {}
    strange: list[str] = []
    for name, tensor in tensors.items():
        if (known := piece(name)) is None:
            strange.append(name)
            continue
        matrices = places.setdefault(known.place, {})
        if known.kind in matrices:
            raise ValueError(f"{matrices[known.kind].name} and {name} are for the same layer, one is allowed")
        matrices[known.kind] = Named(name, tensor)
    if strange:
        told = refusal(strange)
        name, why = (strange[0], "") if told is None else (told[0], f": {told[1]}")
        raise ValueError(f"{name} is no adapter of this model{why}")
    return places


def _found(place: Place, matrices: Matrices, scales: Scales, said: Stacked) -> Iterator[Found]:
    a, b = _halves(place, matrices)
    scale = _alpha(matrices["alpha"]) / len(a) if "alpha" in matrices else scales.of(place, rank=len(a))
    if scale != 1:
        b = _finite(Named(f"{matrices['B'].name} times its scale {scale:.6g}", b * scale))
    if place.fused:
        for target, own_a, own_b in separated(place.layer, a, b, said):
            yield Found(place.block, target, own_a, own_b)
        return
    target = BY_DIFFUSERS[place.layer]
    yield Found(place.block, target, a, in_order(b, PROJECTIONS[target]))


def _halves(place: Place, matrices: Matrices) -> tuple[Tensor, Tensor]:
    """A (rank, columns) and B (rows, rank) in float32."""
    for kind in ("A", "B"):
        if kind not in matrices:
            raise ValueError(f"{other_half(next(iter(matrices.values())).name)} is missing")
    (name_a, a), (name_b, b) = matrices["A"], matrices["B"]
    parts = len(PARTS[place.layer]) if place.fused else 1 + PROJECTIONS[BY_DIFFUSERS[place.layer]].swapped
    if a.ndim != 2 or b.ndim != 2 or not len(a) or b.shape[1] != len(a) or len(b) % parts:
        raise ValueError(f"{name_a} {list(a.shape)} and {name_b} {list(b.shape)} do not belong together")
    return _finite(matrices["A"]), _finite(matrices["B"])


def _finite(named: Named) -> Tensor:
    """The tensor in float32."""
    name, tensor = named
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must hold numbers with a fraction, got {tensor.dtype}")
    numbers = tensor.float()
    if not numbers.is_meta and not bool((good := torch.isfinite(numbers)).all()):
        raise ValueError(f"{name} has {int((~good).sum())} of {good.numel()} numbers that are not finite")
    return numbers


def _alpha(named: Named) -> float:
    if named.tensor.numel() != 1:
        raise ValueError(f"{named.name} must be one number, got {list(named.tensor.shape)}")
    return float(_finite(Named(named.name, named.tensor.float())))
