"""What the files of a model have to contain, in each layout, for each preset; and which model a file seems to be of."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mochi_trainer.lora.targets import PARTS, PROJECTIONS
from mochi_trainer.model import DiT
from mochi_trainer.presets.catalogue import PRESETS, Preset, PresetName
from mochi_trainer.vae import Decoder, Encoder
from mochi_trainer.weights.diffusers_layout import decoder_table, diffusers_layout, dit_layout, encoder_table

FileKind = Literal["transformer", "encoder", "decoder", "autoencoder", "lora"]
FileLayout = Literal["published", "diffusers", "native"]
Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


class Form(NamedTuple):
    """One kind of file."""

    part: FileKind
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
    yield Form("transformer", "published", preset.name, shapes_of(dit))
    yield Form("transformer", "diffusers", preset.name, shapes_of(dit_layout(dit, preset.dit.depth)))
    yield Form("encoder", "published", preset.name, shapes_of(encoder))
    yield Form("decoder", "published", preset.name, shapes_of(decoder))
    halves = {
        "encoder": diffusers_layout(encoder, encoder_table(preset.encoder)),
        "decoder": diffusers_layout(decoder, decoder_table(preset.decoder)),
    }
    both = {f"{half}.{name}": tensor for half, state in halves.items() for name, tensor in state.items()}
    yield Form("autoencoder", "diffusers", preset.name, shapes_of(both))


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


_BLOCK = re.compile(r"(?:.*\.)?(?:\w*blocks?|layers|h)\.(\d+)\..+")
OTHER = "these are the weights of another model"
CLOSE = 0.9
"""Share of a form's tensors that a file has to have to be called that form."""


class Size(NamedTuple):
    """What tells one transformer from another at a glance."""

    blocks: int
    width: int

    def __str__(self) -> str:
        return f"{self.blocks} blocks of width {self.width}"


def strange(expected: Shapes, found: Shapes) -> bool:
    """Whether most of the tensors are not those of the model: it is another one, not this one with a fault."""
    fitting = sum(found.get(name) == shape for name, shape in expected.items())
    return bool(found) and 2 * fitting < max(len(expected), len(found))


def likeness(expected: Shapes, found: Shapes, model: str) -> str:
    """What a file with the tensors `found`, of which there are some, seems to be, where those `expected` by `model` were wanted."""
    form = nearest(found)
    if form is not None and _fit(form, found) >= CLOSE:
        if form.preset == model:
            return f"this is the {form.part} of {model}"
        sizes = _sizes(expected, found, model) if form.part == "transformer" else ""
        return f"{OTHER}: the {form.part} of {form.preset}{sizes}"
    if form is None and not expected.keys() & found.keys():
        return f"{OTHER}: no name fits, the first is {next(iter(found))}"
    return f"{OTHER}{_sizes(expected, found, model)}"


def _fit(form: Form, found: Shapes) -> float:
    return sum(found.get(name) == shape for name, shape in form.shapes.items()) / len(form.shapes)


def _sizes(expected: Shapes, found: Shapes, model: str) -> str:
    """Both sizes, where they differ."""
    own, other = size_of(found), size_of(expected)
    if own is None or other is None or own == other:
        return f", {len(found)} tensors where {model} has {len(expected)}"
    return f", the file has {own} where {model} has {other.blocks} of width {other.width}"


def size_of(shapes: Shapes) -> Size | None:
    """Blocks, and the number of columns that most matrices have; None when there are no blocks."""
    blocks = {match[1] for name in shapes if (match := _BLOCK.fullmatch(name))}
    columns = Counter(shape[1] for shape in shapes.values() if len(shape) == 2)
    if not blocks or not columns:
        return None
    return Size(len(blocks), columns.most_common(1)[0][0])
