"""The models one can name: `mochi-1` as published, and `nano`, the same architecture in a few MB.

`source` is a local folder with `dit.safetensors`, `encoder.safetensors`, `decoder.safetensors` and `t5/`; `nano` brings
its own. Loading is strict: a missing, extra or wrong tensor raises `WeightsError`, which names it.
"""

from mochi_trainer.presets.catalogue import PRESETS, Preset, PresetName, preset_named
from mochi_trainer.presets.loading import (
    PARTS,
    Part,
    identity,
    load_decoder,
    load_dit,
    load_encoder,
    load_text_encoder,
)
from mochi_trainer.presets.weights import WeightsError, load_weights, save_weights

__all__ = [
    "PARTS",
    "PRESETS",
    "Part",
    "Preset",
    "PresetName",
    "WeightsError",
    "identity",
    "load_decoder",
    "load_dit",
    "load_encoder",
    "load_text_encoder",
    "load_weights",
    "preset_named",
    "save_weights",
]
