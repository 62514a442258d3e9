"""Where the weights of a run come from, what a cache key says about them, and the device they go to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mochi_api.runfile import RunFile
from mochi_trainer import weights
from mochi_trainer.parallel.devices import device_for
from mochi_trainer.weights import Part, Source


def model_source(run: RunFile, parts: Sequence[Part]) -> Source | None:
    """The `source` argument of `weights.load_*` for `parts`; None for weights in the package. No weight is read yet.

    Raises MissingObjectError when a part is not there, InvalidInputError for an address that is none.
    """
    address = run.locations.model
    if address is None:
        return None
    source = weights.open_source(address, run.s3)
    weights.check_parts(source, parts)
    return source


def model_identity(run: RunFile, parts: Sequence[Part]) -> str:
    """What a cache key says about `parts`: preset and a hash of their content, for S3 of sizes and ETags.

    Raises MissingObjectError when a part is not there.
    """
    return weights.identity(run.model.preset, model_source(run, parts), parts)


def stage_device(run: RunFile, gpus: int | None) -> torch.device:
    """Where a stage of preprocessing computes: on the CPU with `gpus` 0, and by default when the preset is nano.

    Raises DeviceUnavailableError when it should be a GPU and torch sees none.
    """
    return device_for((0 if run.model.preset == "nano" else 1) if gpus is None else gpus)
