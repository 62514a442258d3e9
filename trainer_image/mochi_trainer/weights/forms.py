"""What the files of a model have to contain: the names and shapes of each part, in each layout, for each preset."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import torch

from mochi_trainer.lora.targets import PARTS, PROJECTIONS
from mochi_trainer.model import DiT
from mochi_trainer.presets.catalogue import PRESETS, Preset, PresetName
from mochi_trainer.vae import Decoder, Encoder
from mochi_trainer.weights.diffusers_layout import decoder_table, diffusers_layout, dit_layout, encoder_table

FilePart = Literal["transformer", "encoder", "decoder", "autoencoder", "lora"]
FileLayout = Literal["published", "diffusers", "native"]
Shapes = Mapping[str, tuple[int, ...]]


class Form(NamedTuple):
    """One kind of file."""

    part: FilePart
    layout: FileLayout
    preset: PresetName
    shapes: Shapes

    def misfits(self, found: Shapes) -> tuple[list[str], list[str], list[str]]:
        """Names that are missing, that are not part of it, and that have another shape, described."""
        missing = [name for name in self.shapes if name not in found]
        extra = [name for name in found if name not in self.shapes]
        wrong = [
            f"{name} has shape {list(found[name])} instead of {list(shape)}"
            for name, shape in self.shapes.items()
            if name in found and found[name] != shape
        ]
        return missing, extra, wrong


def nearest(found: Shapes) -> Form | None:
    """The form that most tensors of a file fit, by name and shape; None when it has not half of their names."""
    forms = [*_weights(), *_adapters(found)]
    best = max(forms, key=lambda form: _nearness(form.shapes, found), default=None)
    if best is None or 2 * len(best.shapes.keys() & found.keys()) < len(found):
        return None
    return best


def _nearness(expected: Shapes, found: Shapes) -> tuple[int, int]:
    common = expected.keys() & found.keys()
    fitting = sum(expected[name] == found[name] for name in common)
    return fitting + len(common), -len(expected.keys() ^ found.keys())


@functools.cache
def _weights() -> tuple[Form, ...]:
    return tuple(form for make in PRESETS.values() for form in _of_preset(make()))


def _of_preset(preset: Preset) -> Iterator[Form]:
    with torch.device("meta"):
        dit = DiT(preset.dit).state_dict()
        encoder, decoder = Encoder(preset.encoder).state_dict(), Decoder(preset.decoder).state_dict()
    yield Form("transformer", "published", preset.name, _shapes(dit))
    yield Form("transformer", "diffusers", preset.name, _shapes(dit_layout(dit, preset.dit.depth)))
    yield Form("encoder", "published", preset.name, _shapes(encoder))
    yield Form("decoder", "published", preset.name, _shapes(decoder))
    halves = {
        "encoder": diffusers_layout(encoder, encoder_table(preset.encoder)),
        "decoder": diffusers_layout(decoder, decoder_table(preset.decoder)),
    }
    both = {f"{half}.{name}": tensor for half, state in halves.items() for name, tensor in state.items()}
    yield Form("autoencoder", "diffusers", preset.name, _shapes(both))


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


_DIFFUSERS_A = re.compile(r"(?:transformer\.)?transformer_blocks\.\d+\.(.+)\.lora_A\.weight")
_NATIVE_A = re.compile(r"blocks\.\d+\.(\w+\.\w+)\.lora_A")


def _adapters(found: Shapes) -> Iterator[Form]:
    """LoRAs with the targets and ranks of this file, in every block that has the layer."""
    diffusers, native = _ranks(_DIFFUSERS_A, found), _ranks(_NATIVE_A, found)
    for form in _weights() if diffusers or native else ():
        if form.part != "transformer" or form.layout != "published":
            continue
        if diffusers:
            prefix = "transformer." if any(name.startswith("transformer.") for name in found) else ""
            yield Form("lora", "diffusers", form.preset, dict(_separate(form.shapes, diffusers, prefix)))
        if native:
            yield Form("lora", "native", form.preset, dict(_fused(form.shapes, native)))


def _ranks(pattern: re.Pattern[str], found: Shapes) -> dict[str, int]:
    """By layer, the rank that most of its adapters have."""
    counts: dict[str, Counter[int]] = {}
    for name, shape in found.items():
        if (match := pattern.fullmatch(name)) and len(shape) == 2:
            counts.setdefault(match[1], Counter())[shape[0]] += 1
    return {layer: count.most_common(1)[0][0] for layer, count in counts.items()}


def _separate(dit: Shapes, ranks: Mapping[str, int], prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer, _, diffusers, _ in PROJECTIONS.values():
        if (rank := ranks.get(diffusers)) is None:
            continue
        for block, (rows, columns) in _layers(dit, layer):
            name = f"{prefix}transformer_blocks.{block}.{diffusers}"
            yield f"{name}.lora_A.weight", (rank, columns)
            yield f"{name}.lora_B.weight", (rows // len(PARTS[layer]), rank)


def _fused(dit: Shapes, ranks: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer, rank in ranks.items():
        for block, (rows, columns) in _layers(dit, layer):
            yield f"blocks.{block}.{layer}.lora_A", (rank, columns)
            yield f"blocks.{block}.{layer}.lora_B", (rows, rank)


def _layers(dit: Shapes, layer: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Block and (rows, columns) of the weights of a layer."""
    for name, shape in dit.items():
        if match := re.fullmatch(rf"blocks\.(\d+)\.{re.escape(layer)}\.weight", name):
            yield match[1], shape
