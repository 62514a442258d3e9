"""Rules on `training`: what a mode has, and numbers that fit each other and the model."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api.prediction.sizes import NETWORKS
from mochi_api.rules.rule import Rule, cel_message
from mochi_api.spec import FineTuneSpec

_TARGETS = "self.training.lora.targets"
_SWAPPED = "self.training.lora.blocksToSwap"
_DEPTH = f"(self.model.preset == 'nano' ? {NETWORKS['nano'].depth} : {NETWORKS['mochi-1'].depth})"


def _lora_only(spec: FineTuneSpec) -> str | None:
    if spec.mode == "lora" or spec.training.lora is None:
        return None
    return "spec.training.lora must be left out with mode full, which trains all weights"


def _ema(spec: FineTuneSpec) -> str | None:
    if spec.mode == "full" or spec.training.ema is None:
        return None
    return "spec.training.ema must be left out with mode lora, which trains no weights of the model"


def _warmup(spec: FineTuneSpec) -> str | None:
    warmup, steps = spec.training.warmup_steps, spec.training.steps
    if warmup is None or warmup <= steps:
        return None
    return f"spec.training.warmupSteps must be at most steps = {steps}, got {warmup}"


def _targets(spec: FineTuneSpec) -> str | None:
    targets = spec.training.lora.targets if spec.training.lora else []
    if len(set(targets)) == len(targets):
        return None
    return f"spec.training.lora.targets must not repeat a projection, got {','.join(targets)}"


def _swapped(spec: FineTuneSpec) -> str | None:
    depth = NETWORKS[spec.model.preset].depth
    count = spec.training.lora.blocks_to_swap if spec.training.lora else 0
    if count < depth:
        return None
    return (
        f"spec.training.lora.blocksToSwap must be less than the {depth} blocks of {spec.model.preset} "
        f"(the last one stays in the GPU), got {count}"
    )


MODES: Sequence[Rule] = (
    Rule(
        path="spec.training.lora",
        cel="self.mode == 'lora' || !has(self.training.lora)",
        message="'spec.training.lora must be left out with mode full, which trains all weights'",
        broken=_lora_only,
    ),
    Rule(
        path="spec.training.ema",
        cel="self.mode == 'full' || !has(self.training.ema)",
        message="'spec.training.ema must be left out with mode lora, which trains no weights of the model'",
        broken=_ema,
    ),
)

TRAINING: Sequence[Rule] = (
    Rule(
        path="spec.training.warmupSteps",
        cel="!has(self.training.warmupSteps) || self.training.warmupSteps <= self.training.steps",
        message=cel_message(
            "spec.training.warmupSteps must be at most steps = %d, got %d",
            "self.training.steps",
            "self.training.warmupSteps",
        ),
        broken=_warmup,
    ),
    Rule(
        path="spec.training.lora.targets",
        cel=f"!has(self.training.lora) || {_TARGETS}.all(t, {_TARGETS}.exists_one(u, u == t))",
        message=cel_message(
            "spec.training.lora.targets must not repeat a projection, got %s", f"{_TARGETS}.join(',')"
        ),
        broken=_targets,
    ),
    Rule(
        path="spec.training.lora.blocksToSwap",
        cel=f"!has(self.training.lora) || !has({_SWAPPED}) || {_SWAPPED} < {_DEPTH}",
        message=cel_message(
            "spec.training.lora.blocksToSwap must be less than the %d blocks of %s (the last one stays in the GPU), got %d",
            _DEPTH,
            "self.model.preset",
            _SWAPPED,
        ),
        broken=_swapped,
    ),
)
