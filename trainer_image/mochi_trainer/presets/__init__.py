"""The models one can name: `mochi-1` as published, and `nano`, the same architecture in a few MB."""

from mochi_trainer.presets.catalogue import PRESETS, Preset, PresetName, preset_named

__all__ = ["PRESETS", "Preset", "PresetName", "preset_named"]
