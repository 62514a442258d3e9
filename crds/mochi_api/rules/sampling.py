"""The rules on `sampling`: prompts that say something, and samples during the training where checkpoints are."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mochi_api.base import cel_text
from mochi_api.rules.rule import Rule, cel_message
from mochi_api.spec import FineTuneSpec

_INK = r"\S"
"""What a prompt has at least one of."""
_PROMPTS = "self.sampling.prompts"
_EVERY, _SAVED = "self.sampling.everySteps", "self.training.checkpoint.everySteps"
_NO_PREVIEWS = f"!has({_EVERY}) || {_EVERY} == 0"


def _prompts(spec: FineTuneSpec) -> str | None:
    prompts = spec.sampling.prompts
    blank = sum(1 for prompt in prompts if re.search(_INK, prompt, re.ASCII) is None)
    return f"spec.sampling.prompts must not be blank, got {blank} blank of {len(prompts)}" if blank else None


def _previews_of_checkpoints(spec: FineTuneSpec) -> str | None:
    every, saved = spec.sampling.every_steps, spec.training.checkpoint.every_steps
    if every == 0 or every >= saved:
        return None
    return (
        f"spec.sampling.everySteps must be 0 or at least training.checkpoint.everySteps = {saved} "
        f"(samples are made from checkpoints), got {every}"
    )


def _previews_in_time(spec: FineTuneSpec) -> str | None:
    every, steps = spec.sampling.every_steps, spec.training.steps
    if every == 0 or every < steps:
        return None
    return (
        f"spec.sampling.everySteps must be less than training.steps = {steps} "
        f"(after the last step samples are made anyway), got {every}"
    )


SAMPLING: Sequence[Rule] = (
    Rule(
        path="spec.sampling.prompts",
        cel=f"!has({_PROMPTS}) || {_PROMPTS}.all(p, p.matches({cel_text(_INK)}))",
        message=cel_message(
            "spec.sampling.prompts must not be blank, got %d blank of %d",
            f"size({_PROMPTS}.filter(p, !p.matches({cel_text(_INK)})))",
            f"size({_PROMPTS})",
        ),
        broken=_prompts,
    ),
    Rule(
        path="spec.sampling.everySteps",
        cel=f"{_NO_PREVIEWS} || {_EVERY} >= {_SAVED}",
        message=cel_message(
            "spec.sampling.everySteps must be 0 or at least training.checkpoint.everySteps = %d "
            "(samples are made from checkpoints), got %d",
            _SAVED,
            _EVERY,
        ),
        broken=_previews_of_checkpoints,
    ),
    Rule(
        path="spec.sampling.everySteps",
        cel=f"{_NO_PREVIEWS} || {_EVERY} < self.training.steps",
        message=cel_message(
            "spec.sampling.everySteps must be less than training.steps = %d "
            "(after the last step samples are made anyway), got %d",
            "self.training.steps",
            _EVERY,
        ),
        broken=_previews_in_time,
    ),
)
