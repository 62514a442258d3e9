"""The guide's limits on mode lora, which `limits: Memory` opens, in both languages."""

from __future__ import annotations

from mochi_api.spec import FineTuneSpec

LORA_FRAMES = 85

GUIDED = "(self.mode == 'lora' && (!has(self.limits) || self.limits == 'Guide'))"


def guided(spec: FineTuneSpec) -> bool:
    """Whether the guide's limits on LoRA hold."""
    return spec.mode == "lora" and spec.limits == "Guide"
