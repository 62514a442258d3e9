"""The models one can name: `mochi-1` as published, and `nano`, the same architecture in a few MB.

`source` is a folder, or what `open_source` makes of an address: a folder, `s3://bucket/prefix` or `hf://owner/name`. It has
the published files (`dit.safetensors`, `encoder.safetensors`, `decoder.safetensors`, `t5/`) or those of Diffusers; `nano`
brings its own. Loading is strict: a missing, extra or wrong tensor raises `WeightsError`, which names it.
"""

from mochi_trainer.presets.addresses import Source, open_source
from mochi_trainer.presets.catalogue import PRESETS, Preset, PresetName, preset_named
from mochi_trainer.presets.checking import check_headers, part_shapes
from mochi_trainer.presets.finding import PARTS, Part
from mochi_trainer.presets.loading import (
    check_parts,
    fill_dit,
    identity,
    load_decoder,
    load_dit,
    load_encoder,
    load_text_encoder,
    load_weights,
    meta_dit,
)
from mochi_trainer.presets.weights import WeightsError, save_weights

__all__ = [
    "PARTS",
    "PRESETS",
    "Part",
    "Preset",
    "PresetName",
    "Source",
    "WeightsError",
    "check_headers",
    "check_parts",
    "fill_dit",
    "identity",
    "load_decoder",
    "load_dit",
    "load_encoder",
    "load_text_encoder",
    "load_weights",
    "meta_dit",
    "open_source",
    "part_shapes",
    "preset_named",
    "save_weights",
]
