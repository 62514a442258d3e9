"""The transformer as training left it: the base with the stored adapter, or the tuned weights."""

from __future__ import annotations

from pathlib import Path

import torch

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer import lora
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.model import DiT
from mochi_trainer.storage import Store, open_store
from mochi_trainer.weights import Source, WeightsError, load_dit


def tuned_dit(
    run: RunFile,
    store: Store,
    source: Source | None,
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> DiT:
    """The model of the run whose artifacts are in `store`; `folder` is for the LoRA file.

    Raises MissingObjectError when training left no artifact, InvalidInputError when it does not fit the base.
    """
    try:
        if run.mode == "full":
            artifacts, _, _ = layout.WEIGHTS.rpartition("/")
            weights = open_store(layout.join(run.locations.run, artifacts), run.s3)
            return load_dit(run.model.preset, weights, device=device, dtype=dtype)
        store.get(layout.LORA, folder / "lora.safetensors")
        model = load_dit(run.model.preset, source, device=device, dtype=dtype)
        lora.load_file(model, folder / "lora.safetensors")
    except (WeightsError, FileNotFoundError, ValueError) as error:
        raise InvalidInputError(f"the tuned weights cannot be used: {error}") from error
    return model
