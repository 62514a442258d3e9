"""Reading weights from wherever they lie, in either layout, compared before they are used.

`source` is a folder, or what `open_source` makes of an address: a folder, `s3://bucket/prefix` or `hf://owner/name`. It has
the published files (`dit.safetensors`, `encoder.safetensors`, `decoder.safetensors`, `t5/`) or those of Diffusers; `nano`
brings its own. Loading is strict: a missing, extra or wrong tensor raises `WeightsError`, which names it.
"""

from mochi_trainer.weights.addresses import Source, open_source
from mochi_trainer.weights.checking import check_headers, part_shapes
from mochi_trainer.weights.finding import PARTS, Part
from mochi_trainer.weights.loading import (
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
from mochi_trainer.weights.stored import WeightsError
from mochi_trainer.weights.writing import kept_type, save_weights

__all__ = [
    "PARTS",
    "Part",
    "Source",
    "WeightsError",
    "check_headers",
    "check_parts",
    "fill_dit",
    "identity",
    "kept_type",
    "load_decoder",
    "load_dit",
    "load_encoder",
    "load_text_encoder",
    "load_weights",
    "meta_dit",
    "open_source",
    "part_shapes",
    "save_weights",
]
