"""Small training runs on the CPU: a dataset as the stages before leave it, and run files that name it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.storage import Entry, Store, put_entry, write_manifest
from mochi_trainer.storage.local import LocalStore

KEY = "0" * 32
LATENT_SHAPE = (12, 2, 4, 6)
"""7 frames of 48 x 32 pixels."""
TEXT_WIDTH = 64


def write_dataset(
    root: Path,
    *,
    clips: int = 3,
    seed: int = 1,
    spread: float = 0.1,
    others: Mapping[str, Mapping[str, torch.Tensor]] = MappingProxyType({}),
) -> None:
    """Latents with a strong common pattern, so that there is something to learn, and made-up caption features.

    A clip differs from the pattern by `spread`. The first clips are the same however many there are. `others` has by clip
    tensors in place of its own.
    """
    store = LocalStore(root / "cache")
    draws = torch.Generator().manual_seed(seed)
    pattern = 2 * torch.randn(LATENT_SHAPE, generator=draws)
    names = [f"clip-{index}" for index in range(clips)]
    latents = {
        name: {
            "mean": pattern + spread * torch.randn(LATENT_SHAPE, generator=draws),
            "logvar": torch.full(LATENT_SHAPE, -4.0),
        }
        for name in names
    }
    features = {
        name: {"features": torch.randn(5 + index, TEXT_WIDTH, generator=draws)}
        for index, name in enumerate(names)
    }
    for name, tensors in others.items():
        for key, tensor in tensors.items():
            (features if key == "features" else latents)[name][key] = tensor
    features["_empty"] = {"features": torch.zeros(0, TEXT_WIDTH)}
    _write_stage(store, "videos", latents, {"clips": names})
    _write_stage(store, "captions", features, {"captions": {name: f"caption of {name}" for name in names}})


def _write_stage(
    store: Store, stage: str, files: dict[str, dict[str, torch.Tensor]], details: dict[str, Any]
) -> None:
    prefix = layout.cache_entry("", stage, KEY)
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, tensors in files.items():
            path = Path(folder) / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
            entries.append(put_entry(store, prefix, path, path.name))
    write_manifest(store, prefix, entries, details)


def run_file(
    root: Path,
    *,
    mode: str = "lora",
    name: str = "run",
    replicas: int = 1,
    gpus: int = 0,
    prompts: Sequence[str] = (),
    **training: Any,
) -> RunFile:
    """A run of nano below `root`, in pods of so many (absent) GPUs; `training` overrides fields of the training section."""
    section: dict[str, Any] = {
        "steps": 6,
        "learningRate": "0.002",
        "warmupSteps": 2,
        "globalBatchSize": 2,
        "captionDropout": "0.3",
        "checkpoint": {"everySteps": 2, "keepLast": 10},
    }
    if mode == "lora":
        section["lora"] = {"rank": 4, "alpha": 8}
    return RunFile.model_validate(
        {
            "stage": "train",
            "run": {"namespace": "ns", "name": name, "uid": name},
            "mode": mode,
            "model": {"preset": "nano"},
            "dataset": {"source": {"pvc": {"claimName": "clips"}}},
            "preprocessing": {"frames": 7, "width": 48, "height": 32},
            "training": section | training,
            "sampling": {"steps": 4, "guidance": "3", "prompts": list(prompts)},
            "s3": {},
            "locations": {
                "dataset": f"file://{root}/clips",
                "cache": f"file://{root}/cache",
                "run": f"file://{root}/runs/{name}",
            },
            "keys": {"captions": KEY, "videos": KEY},
            "world": {"replicas": replicas, "gpusPerPod": gpus},
        }
    )
