"""Drawn numbers in place of clips and weights: a step takes as long with them as with real ones."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.data.dataset import EMPTY_PROMPT
from mochi_trainer.model import DiTParams
from mochi_trainer.presets import preset_named
from mochi_trainer.storage import Entry, Store, open_store, put_entry, write_manifest
from mochi_trainer.vae import latent_shape

CLIPS = 4
_SPREAD = 0.02
"""Standard deviation of the weights."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Weights for the sizes `params`, drawn where they are to lie; norms begin as ones, biases as zeros."""

    params: DiTParams

    @torch.no_grad()
    def fill(self, rows: Mapping[str, tuple[Tensor, int]]) -> None:
        """Give each tensor its numbers."""
        for number, (name, (tensor, _)) in enumerate(rows.items()):
            if tensor.ndim == 1:
                tensor.fill_(float(name.endswith("weight")))
            else:
                draws = torch.Generator(tensor.device).manual_seed(number)
                tensor.normal_(std=_SPREAD, generator=draws)


def write_clips(run: RunFile) -> None:
    """Leave in the run's cache what the stages captions and videos would: latents as spread as real ones, and the longest captions."""
    store, preset = open_store(run.locations.cache, run.s3), preset_named(run.model.preset)
    size, draws = run.preprocessing, torch.Generator().manual_seed(0)
    shape = (preset.dit.latent_channels, *latent_shape(size.frames, size.height, size.width))
    mean, std = (
        torch.tensor(values)[:, None, None, None] for values in (preset.latents.mean, preset.latents.std)
    )
    names = [f"clip-{number}" for number in range(CLIPS)]
    tokens, width = preset.dit.text_tokens, preset.dit.text_feature_width
    videos = {
        name: {"mean": mean + std * torch.randn(shape, generator=draws), "logvar": torch.full(shape, -4.0)}
        for name in names
    }
    captions = {f"{name}.safetensors": torch.randn(tokens, width, generator=draws) for name in names}
    captions[EMPTY_PROMPT] = torch.zeros(0, width)
    _write(
        store, "videos", run.keys.videos, {f"{n}.safetensors": t for n, t in videos.items()}, {"clips": names}
    )
    _write(
        store,
        "captions",
        run.keys.captions,
        {name: {"features": features} for name, features in captions.items()},
        {"captions": dict.fromkeys(names, "")},
    )


def _write(
    store: Store, stage: str, key: str, files: dict[str, dict[str, Tensor]], details: dict[str, Any]
) -> None:
    prefix = layout.cache_entry("", stage, key)
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory(prefix="mochi-bench-") as folder:
        for name, tensors in files.items():
            path = Path(folder) / name
            save_file(tensors, path)
            entries.append(put_entry(store, prefix, path, name))
    write_manifest(store, prefix, entries, details)
