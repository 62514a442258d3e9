"""What a training was asked to train, as far as its weights mean something else when that changes. Pure.

A checkpoint's manifest has these terms by their names in the spec: no tensor has the factor of an adapter (`alpha` and `rsLora`), and
the name of a field says more than that of a tensor that does not fit. Manifests of an earlier version lack them, and nothing can
be said then. Dropout is none of them: it is how training goes on, not what the numbers are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mochi_api.runfile import RunFile
from mochi_api.spec import LoraSpec
from mochi_trainer.train.misfits import MisfitError, OtherTrainingError

Terms = Mapping[str, str | int | float | list[str]]

NONE: Terms = MappingProxyType({})
FIELD = "terms"
"""Of the manifest's details."""


def terms_of(run: RunFile) -> Terms:
    """Those of what `run` trains."""
    general: dict[str, str | int | float | list[str]] = {"mode": run.mode, "model.preset": run.model.preset}
    if run.mode != "lora":
        return general
    spec = run.training.lora or LoraSpec()
    return general | {
        "training.lora.rank": spec.rank,
        "training.lora.alpha": float(spec.alpha),
        "training.lora.rsLora": spec.rs_lora,
        "training.lora.targets": sorted(spec.targets),
    }


def difference(ours: Terms, theirs: Mapping[str, Any]) -> str:
    """In which terms that both have `theirs` are others; empty when in none."""
    return "; ".join(
        f"{name} is {_text(mine)} here, {_text(theirs[name])} there"
        for name, mine in ours.items()
        if name in theirs and mine != theirs[name]
    )


def compare_terms(details: Mapping[str, Any], ours: Terms) -> None:
    """Raise OtherTrainingError when a manifest's `details` state other terms, MisfitError when they state what no term can be."""
    theirs = details.get(FIELD, NONE)
    if not isinstance(theirs, Mapping):
        raise MisfitError(f"its manifest cannot be right: {FIELD} is {theirs!r:.40}")
    for name, mine in ours.items():
        if name in theirs and type(theirs[name]) is not type(mine):
            raise MisfitError(f"its manifest cannot be right: {FIELD}.{name} is {theirs[name]!r:.40}")
    if words := difference(ours, theirs):
        raise OtherTrainingError(words)


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"{', '.join(map(str, value)):.200}"
    return f"{value!s:.40}".removesuffix(".0")
