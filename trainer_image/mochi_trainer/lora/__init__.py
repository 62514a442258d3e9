"""Low-rank adapters of peft on a transformer whose own parameters keep their names, and the formats they travel in."""

from mochi_trainer.lora.adapters import (
    adapter_state,
    attach,
    base_state,
    draw,
    load_adapter,
    trainable_parameters,
)
from mochi_trainer.lora.continuation import check_header_continues, continue_from
from mochi_trainer.lora.diffusers_format import export_diffusers
from mochi_trainer.lora.files import attach_state, file_at, load_file, read_file
from mochi_trainer.lora.importing import imported
from mochi_trainer.lora.merging import merged_state
from mochi_trainer.lora.native_format import export_native
from mochi_trainer.lora.targets import LoraParams, Target

__all__ = [
    "LoraParams",
    "Target",
    "adapter_state",
    "attach",
    "attach_state",
    "base_state",
    "check_header_continues",
    "continue_from",
    "draw",
    "export_diffusers",
    "export_native",
    "file_at",
    "imported",
    "load_adapter",
    "load_file",
    "merged_state",
    "read_file",
    "trainable_parameters",
]
