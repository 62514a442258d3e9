"""What the product of an adapter's matrices is multiplied by, according to what lies beside the matrices in a file, or beside the file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mochi_trainer.documents import json_object
from mochi_trainer.lora.diffusers_format import METADATA_KEY
from mochi_trainer.lora.names import Place
from mochi_trainer.lora.native_format import KINDS, kind_of_layer


def peft_config(metadata: Mapping[str, str], beside: Mapping[str, Any]) -> dict[str, Any]:
    """peft's configuration of the adapter: `beside`, from `adapter_config.json`, else that which Diffusers keeps in a file's metadata.

    Raises ValueError when the metadata cannot be read.
    """
    if beside:
        return dict(beside)
    try:
        raw = json_object(metadata.get(METADATA_KEY, "{}"))
    except ValueError as error:
        raise ValueError(f"the metadata key {METADATA_KEY} cannot be read: {error}") from error
    return {key.removeprefix("transformer."): value for key, value in raw.items()}


def native_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the published fine-tuner keeps in a file's metadata: ranks and alphas. Raises ValueError when it cannot be read."""
    try:
        return json_object(metadata.get("kwargs", "{}"))
    except ValueError as error:
        raise ValueError(f"the metadata key kwargs cannot be read: {error}") from error


class Scales:
    """The scales that peft's configuration and the published fine-tuner's metadata give.

    Raises ValueError when they give none that can be used.
    """

    def __init__(self, config: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        self._config = config
        self._native = _native(metadata)
        try:
            self._patterns = {
                re.compile(rf"(?:.*\.)?(?:{key})"): _number(alpha, f"alpha_pattern {key}")
                for key, alpha in (config.get("alpha_pattern") or {}).items()
            }
            self.of(Place(fused=False, block=0, layer=""), rank=1)
        except (ValueError, TypeError, AttributeError, re.error) as error:
            raise ValueError(f"peft's configuration cannot be read: {error}") from error

    def of(self, place: Place, *, rank: int) -> float:
        """The scale of the adapter of one layer; 1 when nothing gives any, as every loader takes it."""
        matching = (alpha for pattern, alpha in self._patterns.items() if pattern.fullmatch(place.module))
        alpha = next(matching, self._config.get("lora_alpha"))
        if alpha is not None:
            return _number(alpha, "lora_alpha") / (
                math.sqrt(rank) if self._config.get("use_rslora") else rank
            )
        return self._native.get(kind_of_layer(place.layer), 1.0) if place.fused else 1.0


def _native(metadata: Mapping[str, str]) -> dict[str, float]:
    """alpha / rank of the fused and of the output projections."""
    kwargs = native_config(metadata)
    try:
        return {
            kind: _number(kwargs[f"{kind}_lora_alpha"], "alpha")
            / _number(kwargs[f"{kind}_lora_rank"], "rank")
            if f"{kind}_lora_alpha" in kwargs
            else 1.0
            for kind in KINDS.values()
        }
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"the metadata key kwargs must give rank and alpha, got {error!r}") from error


def _number(value: Any, name: str) -> float:
    """`value` as a number. Raises ValueError when it is infinite or none, which JSON of Python may have, TypeError when it cannot be one."""
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {value!s:.40}")
    return found
