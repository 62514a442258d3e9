"""What the tests of loading share: a small model with the widths at which Diffusers' rules give the same sizes, and its files."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mochi_trainer.model import DiT
from mochi_trainer.presets import preset_named
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.storage.s3 import S3Store
from mochi_trainer.vae import Decoder, DecoderParams, Encoder, EncoderParams
from tests.trainer.numerics import TINY, seeded

SMALL = dataclasses.replace(
    preset_named("nano"),
    dit=TINY,
    encoder=EncoderParams(widths=(32, 32, 64, 64), blocks=(1, 2, 1, 2, 1)),
    decoder=DecoderParams(widths=(64, 64, 32, 32), blocks=(1, 2, 1, 2, 1)),
)


@functools.cache
def parts() -> dict[str, nn.Module]:
    """The parts of SMALL in float32, drawn by name; not to be changed."""
    made = {"dit": DiT(SMALL.dit), "encoder": Encoder(SMALL.encoder), "decoder": Decoder(SMALL.decoder)}
    return {name: seeded(module, seed, torch.float32) for seed, (name, module) in enumerate(made.items())}


def state(part: str) -> dict[str, Tensor]:
    return parts()[part].state_dict()


def write_published(folder: Path) -> None:
    """The three published files."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts():
        save_file(state(part), folder / f"{part}.safetensors")


def write_shards(tensors: Mapping[str, Tensor], stem: Path, count: int) -> list[Path]:
    """`stem`-0000k-of-0000n.safetensors with the tensors in turn, and their index."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    files, places = [], {}
    for index in range(count):
        file = stem.with_name(f"{stem.name}-{index + 1:05d}-of-{count:05d}.safetensors")
        own = names[index::count]
        save_file({name: tensors[name].contiguous() for name in own}, file)
        places |= dict.fromkeys(own, file.name)
        files.append(file)
    stem.with_name(f"{stem.name}.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    return files


def write_hollow(path: Path, state: Mapping[str, Tensor]) -> None:
    """A file of any size in bfloat16 that takes no room: the header, and a hole where the numbers would be, which are zero."""
    entries, end = {}, 0
    for name, tensor in state.items():
        start, end = end, end + 2 * tensor.numel()
        entries[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def same(module: nn.Module, expected: Mapping[str, Tensor]) -> bool:
    """Whether names and all bits agree."""
    found = module.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


class CountingStore(LocalStore):
    """A folder that remembers which ranges were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges: list[tuple[str, int, int]] = []

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.ranges.append((key, start, length))
        return super().read_range(key, start, length)

    @property
    def total(self) -> int:
        """Bytes read in ranges."""
        return sum(length for _, _, length in self.ranges)


class CountingS3(S3Store):
    """S3 that counts the bytes of the ranges that were read."""

    total = 0

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = super().read_range(key, start, length)
        self.total += len(data)
        return data


class ShrinkingStore(LocalStore):
    """A folder whose large files lose their end after their header was read."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = super().read_range(key, start, length)
        return data[: length // 2] if length > 100_000 else data
