"""The files of Diffusers: an adapter for each of its linear layers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mochi_trainer.lora.pairs import Found, assembled, pairs
from mochi_trainer.lora.targets import PROJECTIONS, LoraParams, Projection

METADATA_KEY = "lora_adapter_metadata"
"""Where Diffusers keeps peft's configuration in a file's metadata, as JSON; `save_lora_weights` folds no alpha into B."""

_PREFIX = "transformer."
_NAME = re.compile(
    r"(?P<module>transformer_blocks\.(?P<block>\d+)\.(?P<layer>.+))\.(lora_(?P<matrix>[AB])\.weight|alpha)"
)
_BY_LAYER = {projection.diffusers: target for target, projection in PROJECTIONS.items()}


def export_diffusers(state: Mapping[str, Tensor], params: LoraParams) -> dict[str, Tensor]:
    """An `adapter_state` as `load_lora_weights` of Diffusers takes it, alpha / rank folded into B."""
    exported = {}
    for pair in pairs(state, params):
        prefix = f"{_PREFIX}transformer_blocks.{pair.block}.{pair.projection.diffusers}"
        exported[f"{prefix}.lora_A.weight"] = pair.a.contiguous()
        exported[f"{prefix}.lora_B.weight"] = in_order(pair.b, pair.projection).contiguous()
    return exported


def in_order(b: Tensor, projection: Projection) -> Tensor:
    """The rows of B as Diffusers orders them, or back again."""
    return torch.cat(b.chunk(2)[::-1]) if projection.swapped else b


def import_diffusers(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[dict[str, Tensor], LoraParams]:
    """A file of `export_diffusers`, or one that Diffusers or peft wrote, as an `adapter_state` and what `attach` needs.

    Names may lack the prefix `transformer.`. The scale comes from `.alpha` tensors, else from the metadata of
    Diffusers, else it is 1, as its loader takes it; it is folded into B: exact when it is a power of two, else rounded
    once to float32. Adapters of lower rank are filled up with zeros. Raises ValueError for a name that is no adapter
    of this model, for a matrix without its other half and for matrices that do not belong together.
    """
    scales = _Scales(metadata or {})
    modules: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name.removeprefix(_PREFIX))
        if match is None or match["layer"] not in _BY_LAYER:
            raise ValueError(f"{name} is no adapter of this model")
        modules.setdefault(match["module"], {})[match["matrix"] or "alpha"] = name, tensor
    return assembled(_found(module, matrices, scales) for module, matrices in modules.items())


def _found(module: str, matrices: Mapping[str, tuple[str, Tensor]], scales: _Scales) -> Found:
    for matrix in "AB":
        if matrix not in matrices:
            stem = next(iter(matrices.values()))[0].partition(f"{module}.")[0] + module
            raise ValueError(f"{stem}.lora_{matrix}.weight is missing")
    (name_a, a), (name_b, b) = matrices["A"], matrices["B"]
    target = _BY_LAYER[module.split(".", 2)[2]]
    if a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a) or (PROJECTIONS[target].swapped and len(b) % 2):
        raise ValueError(f"{name_a} {list(a.shape)} and {name_b} {list(b.shape)} do not belong together")
    rank = len(a)
    scale = float(matrices["alpha"][1]) / rank if "alpha" in matrices else scales.of(module, rank=rank)
    rows = in_order(b.float(), PROJECTIONS[target])
    return Found(int(module.split(".")[1]), target, a.float(), rows if scale == 1 else scale * rows)


class _Scales:
    """What the products are multiplied by, according to the metadata of Diffusers."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        try:
            raw = json.loads(metadata.get(METADATA_KEY, "{}"))
            self._config: dict[str, Any] = {key.removeprefix(_PREFIX): value for key, value in raw.items()}
            self._alpha = self._config.get("lora_alpha")
            self._alphas: dict[str, float] = self._config.get("alpha_pattern") or {}
            self.of("", rank=1)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"the metadata key {METADATA_KEY} cannot be read: {error}") from error

    def of(self, module: str, *, rank: int) -> float:
        """The scale of one layer."""
        alphas = (alpha for key, alpha in self._alphas.items() if f".{module}".endswith(f".{key}"))
        alpha = next(alphas, self._alpha)
        if alpha is None:
            return 1.0
        return float(alpha) / (rank**0.5 if self._config.get("use_rslora") else rank)
