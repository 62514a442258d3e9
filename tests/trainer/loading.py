"""What the tests of loading share: a small model with the widths at which Diffusers' rules give the same sizes, and its files."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMochi, MochiTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from mochi_trainer.model import DiT
from mochi_trainer.presets import preset_named
from mochi_trainer.presets.diffusers_layout import decoder_table, diffusers_layout, dit_layout, encoder_table
from mochi_trainer.storage.local import LocalStore
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


def transformer() -> MochiTransformer3DModel:
    sizes = SMALL.dit
    model = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.visual_width // sizes.heads,
        num_layers=sizes.depth,
        pooled_projection_dim=sizes.text_width,
        in_channels=12,
        text_embed_dim=sizes.text_feature_width,
        time_embed_dim=sizes.timestep_width,
        max_sequence_length=256,
    )
    model.load_state_dict(dit_layout(state("dit"), sizes.depth), strict=True)
    return model


def autoencoder() -> AutoencoderKLMochi:
    model = AutoencoderKLMochi(
        encoder_block_out_channels=SMALL.encoder.widths,
        decoder_block_out_channels=SMALL.decoder.widths[::-1],
        layers_per_block=SMALL.encoder.blocks,
    )
    halves = {"encoder": encoder_table(SMALL.encoder), "decoder": decoder_table(SMALL.decoder)}
    model.load_state_dict(
        {
            f"{half}.{name}": tensor
            for half, table in halves.items()
            for name, tensor in diffusers_layout(state(half), table).items()
        },
        strict=True,
    )
    return model


def save_diffusers(folder: Path, **options: Any) -> Path:
    """What Diffusers' own code writes."""
    transformer().save_pretrained(folder / "transformer", **options)
    autoencoder().save_pretrained(folder / "vae", **options)
    return folder


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


class ShrinkingStore(LocalStore):
    """A folder whose large files lose their end after their header was read."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = super().read_range(key, start, length)
        return data[: length // 2] if length > 100_000 else data
