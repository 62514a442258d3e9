"""Whether the files of a model fit its preset, from their headers alone: nothing is loaded, T5 without transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn

from mochi_trainer.documents import json_of
from mochi_trainer.errors import MissingObjectError
from mochi_trainer.model import DiT
from mochi_trainer.presets.catalogue import Preset
from mochi_trainer.storage import Store
from mochi_trainer.vae import Decoder, Encoder
from mochi_trainer.weights.contents import contents
from mochi_trainer.weights.finding import (
    VARIANTS,
    FilePart,
    Part,
    TextFolders,
    inserted,
    part_files,
    places,
    text_folders,
)
from mochi_trainer.weights.forms import Shapes, shapes_of
from mochi_trainer.weights.stored import StoredFile, WeightsError, found, header_of, required

VOCABULARIES = ("tokenizer.json", "spiece.model")
SHOWN = 5
"""As many problems are named; the rest is counted."""

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
    return shapes_of(module.state_dict())


class TextSize(NamedTuple):
    """What T5's configuration says; the defaults are those of transformers."""

    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    feed_forward_proj: str = "relu"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The encoder's tensors, by name, but for the embedding, which has two names."""
        inner, gated = self.num_heads * self.d_kv, self.feed_forward_proj.startswith("gated-")
        wide, narrow = (self.d_ff, self.d_model), (self.d_model, self.d_ff)
        block = {
            **{f"layer.0.SelfAttention.{name}.weight": (inner, self.d_model) for name in "qkv"},
            "layer.0.SelfAttention.o.weight": (self.d_model, inner),
            "layer.0.layer_norm.weight": (self.d_model,),
            **{f"layer.1.DenseReluDense.{n}.weight": wide for n in (("wi_0", "wi_1") if gated else ("wi",))},
            "layer.1.DenseReluDense.wo.weight": narrow,
            "layer.1.layer_norm.weight": (self.d_model,),
        }
        bias = (self.relative_attention_num_buckets, self.num_heads)
        return {
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": bias,
            "encoder.final_layer_norm.weight": (self.d_model,),
            **{f"encoder.block.{i}.{n}": shape for i in range(self.num_layers) for n, shape in block.items()},
        }


def check_text_headers(store: Store, preset: Preset) -> int:
    """Compare T5 and its tokenizer with `preset`; return the bytes of the weights, 0 when they are no safetensors.

    Raises WeightsError, MissingObjectError, and what the store raises.
    """
    folders = text_folders(store)
    config = required(store, f"{folders.model}config.json")
    size, needed = _size(config), preset.dit.text_feature_width
    if size.d_model != needed:
        raise WeightsError(
            f"{config.name} is a T5 of width {size.d_model}, {preset.name} takes one of width {needed}"
        )
    if not preset.byte_tokens:
        _check_tokenizer(store, folders)
    files = _files(store, folders.model)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= header_of(file).shapes
    if problems := list(_problems(size.shapes(), shapes)) if files else []:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise WeightsError(
            f"t5 at {store.address(folders.model)} does not fit its config.json: {', '.join(problems[:SHOWN])}{more}"
        )
    return sum(file.size for file in files)


def _size(config: StoredFile) -> TextSize:
    try:
        raw = json_of(config.read(0, config.size))
        return TextSize(**{name: type(raw[name])(raw[name]) for name in TextSize._fields if name in raw})
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{config.name} is no configuration of T5: {error}") from error


def _check_tokenizer(store: Store, folders: TextFolders) -> None:
    if not any(store.exists(f"{folders.tokenizer}{name}") for name in VOCABULARIES):
        raise MissingObjectError(
            f"t5's tokenizer is not at {store.address(folders.tokenizer)}: neither {' nor '.join(VOCABULARIES)} is there"
        )


def _files(store: Store, folder: str) -> list[StoredFile]:
    """The files of weights; none when transformers would take a pickle."""
    for variant in VARIANTS:
        if file := found(store, inserted(f"{folder}model.safetensors", variant)):
            return [file]
        if index := found(store, inserted(f"{folder}model.safetensors.index.json", variant)):
            return [required(store, key) for key in sorted(set(dict(places(index, folder)).values()))]
    if any(
        info.key.removeprefix(folder).startswith("pytorch_model") for info in store.list(f"{folder}pytorch")
    ):
        return []
    raise MissingObjectError(f"no weights of t5 in {store.address(folder)}: model.safetensors does not exist")


def _problems(expected: Shapes, shapes: Shapes) -> Iterator[str]:
    if not shapes.keys() & {"shared.weight", "encoder.embed_tokens.weight"}:
        yield "shared.weight is missing"
    for name, shape in expected.items():
        if name not in shapes:
            yield f"{name} is missing"
        elif shapes[name] != shape:
            yield f"{name} has shape {list(shapes[name])} instead of {list(shape)}"
