"""Whether the files of a model fit its preset, from their headers alone: nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from mochi_trainer.model import DiT
from mochi_trainer.presets.catalogue import Preset
from mochi_trainer.storage import Store
from mochi_trainer.vae import Decoder, Encoder
from mochi_trainer.weights.contents import contents
from mochi_trainer.weights.finding import FilePart, Part, part_files
from mochi_trainer.weights.text_headers import check_text_headers

_MODULES: Mapping[FilePart, Callable[[Preset], nn.Module]] = {
    "dit": lambda preset: DiT(preset.dit),
    "encoder": lambda preset: Encoder(preset.encoder),
    "decoder": lambda preset: Decoder(preset.decoder),
}


def check_headers(store: Store, part: Part, preset: Preset) -> int:
    """Compare names, shapes, types and sizes of the files of `part` with `preset`; return the bytes of the files.

    Raises WeightsError when they do not fit, MissingObjectError when they are not there, and what the store raises.
    """
    if part == "t5":
        return check_text_headers(store, preset)
    files = part_files(store, part)
    contents(files, part_shapes(part, preset), preset)
    return sum(file.size for file in files.files)


def part_shapes(part: FilePart, preset: Preset) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of a part."""
    with torch.device("meta"):
        module = _MODULES[part](preset)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
