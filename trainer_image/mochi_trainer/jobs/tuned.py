"""The transformer as training left it, or has made it so far: the base with the adapter, or the tuned weights."""

from __future__ import annotations

from pathlib import Path

import torch

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer import lora
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.model import DiT
from mochi_trainer.storage import Store, open_store
from mochi_trainer.train.saved_weights import Saved, load_newest
from mochi_trainer.train.terms import terms_of
from mochi_trainer.weights import Source, WeightsError, kept_type, load_dit, meta_dit


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


def dit_so_far(
    run: RunFile,
    store: Store,
    source: Source | None,
    params: lora.LoraParams,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[DiT, Saved]:
    """The model of the newest checkpoint in `store`, the run's folder, and which that is.

    `params` are those of the adapter, with mode lora. Raises InvalidInputError when the base cannot be used, and as
    `load_newest`.
    """
    if run.mode == "full":
        model = meta_dit(run.model.preset)
        state = {
            name: torch.empty(tensor.shape, dtype=kept_type(name, dtype), device=device)
            for name, tensor in model.state_dict().items()
        }
        saved = load_newest(store, state, terms_of(run))
        model.load_state_dict(state, strict=True, assign=True)
        return model, saved
    try:
        model = load_dit(run.model.preset, source, device=device, dtype=dtype)
    except WeightsError as error:
        raise InvalidInputError(f"the model's weights cannot be used: {error}") from error
    lora.attach(model, params)
    model.to(device).eval()
    return model, load_newest(store, lora.trainable_parameters(model), terms_of(run))
