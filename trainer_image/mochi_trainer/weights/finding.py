"""Which files of a model's folder hold a part, and in which layout: published names come before Diffusers'."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mochi_trainer.documents import json_of
from mochi_trainer.errors import MissingObjectError
from mochi_trainer.storage import Store
from mochi_trainer.weights.stored import StoredFile, WeightsError, found, required

Part = Literal["dit", "encoder", "decoder", "t5"]
PARTS: tuple[Part, ...] = ("dit", "encoder", "decoder", "t5")
"""The parts of a model: `<part>.safetensors` in its folder, or the folder `t5/`; Diffusers has other names."""
FilePart = Literal["dit", "encoder", "decoder"]
Layout = Literal["published", "diffusers"]

VARIANTS = ("", "bf16", "fp16")
"""Files in a smaller type have it in their name; the plain ones come first."""

_DIFFUSERS: Mapping[str, str] = {
    "dit": "transformer/diffusion_pytorch_model",
    "encoder": "vae/diffusion_pytorch_model",
    "decoder": "vae/diffusion_pytorch_model",
}
_SNAPSHOT = re.compile(r"/models--(.+?)--(.+?)/snapshots/")


@dataclass(frozen=True, slots=True)
class PartFiles:
    """The files of one part."""

    part: FilePart
    layout: Layout
    files: tuple[StoredFile, ...]
    index: StoredFile | None = None
    """The list of which tensor is in which file, if there are several files."""
    places: Mapping[str, str] | None = None
    """What the index says: keys of `files` by name of the tensor."""


class TextFolders(NamedTuple):
    """Where T5 lies: prefixes of keys, with a slash at the end."""

    model: str
    tokenizer: str


def part_files(store: Store, part: FilePart) -> PartFiles:
    """The files of `part` below the store's root.

    Raises MissingObjectError when there are none, or not all that an index lists; WeightsError for a broken index.
    """
    stems: tuple[tuple[Layout, str], ...] = (("published", part), ("diffusers", _DIFFUSERS[part]))
    for layout, stem in stems:
        for variant in VARIANTS:
            if file := found(store, f"{_dotted(stem, variant)}.safetensors"):
                return PartFiles(part, layout, (file,))
            if index := found(store, f"{_dotted(f'{stem}.safetensors.index', variant)}.json"):
                return _indexed(part, layout, index)
    raise missing_part(store, part, f"{part}.safetensors", f"{_DIFFUSERS[part]}.safetensors")


def text_folders(store: Store) -> TextFolders:
    """Where T5 and its tokenizer lie; raises MissingObjectError."""
    for folders in (TextFolders("t5/", "t5/"), TextFolders("text_encoder/", "tokenizer/")):
        if store.exists(f"{folders.model}config.json"):
            return folders
    raise missing_part(store, "t5", "t5/config.json", "text_encoder/config.json")


def text_variant(store: Store, folder: str) -> str | None:
    """The type in the names of T5's files, when there are no plain ones; transformers wants to be told."""
    for variant in VARIANTS:
        stems = (f"{folder}model.safetensors", f"{folder}model.safetensors.index.json")
        if any(store.exists(inserted(stem, variant)) for stem in stems):
            return variant or None
    return None


def missing_part(store: Store, part: str, key: str, other: str) -> MissingObjectError:
    """No file of `part` is there."""
    root = store.address()
    match = _SNAPSHOT.search(f"{root}/")
    cure = f"; to get it: hf download {match[1]}/{match[2]}" if match else ""
    return MissingObjectError(
        f"no {part} in {root}: {store.address(key)} does not exist, nor does {other} (Diffusers' name){cure}"
    )


def _indexed(part: FilePart, layout: Layout, index: StoredFile) -> PartFiles:
    folder = index.key[: index.key.rfind("/") + 1]
    where = dict(places(index, folder))
    keys = sorted(set(where.values()))
    files = tuple(required(index.store, key) for key in keys)
    return PartFiles(part, layout, files, index, where)


def places(index: StoredFile, folder: str) -> Iterator[tuple[str, str]]:
    """What an index says: keys of files by name of the tensor. Raises WeightsError for a broken index."""
    try:
        document = json_of(index.read(0, index.size))
        for name, file in document["weight_map"].items():
            if not isinstance(file, str) or not file or "/" in file:
                raise ValueError(f"{name} is in {file!r}, which is no file beside it")
            yield name, folder + file
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{index.name} is no index of safetensors files: {error}") from error


def _dotted(stem: str, variant: str) -> str:
    return f"{stem}.{variant}" if variant else stem


def inserted(name: str, variant: str) -> str:
    """`variant` before the last ending, as the libraries write it."""
    stem, _, ending = name.rpartition(".")
    return f"{_dotted(stem, variant)}.{ending}"
