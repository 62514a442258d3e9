"""The device a process computes on, and the type of its numbers."""

from __future__ import annotations

import logging

import torch

from mochi_api.runfile import RunFile
from mochi_trainer.errors import DeviceUnavailableError

log = logging.getLogger(__name__)


def device_for(gpus: int, index: int = 0) -> torch.device:
    """GPU `index` of the `gpus` of this pod, or the CPU when it has none.

    Raises DeviceUnavailableError when torch sees fewer.
    """
    if gpus == 0:
        return torch.device("cpu")
    if _seen() < gpus:
        raise DeviceUnavailableError(
            f"the run file gives this pod {gpus} {'GPU' if gpus == 1 else 'GPUs'}, but torch sees {_seen() or 'none'}"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def training_device(run: RunFile, index: int) -> torch.device:
    """Where process `index` of a training pod computes: on a GPU of its own; on the CPU without any.

    `nano`, which is there to try things out, is content with the CPU also where the GPUs it was given are not seen: those of
    a cluster that only pretends to have some. Raises DeviceUnavailableError as `device_for`.
    """
    gpus = run.world.gpus_per_pod
    if run.model.preset == "nano" and _seen() < gpus:
        log.warning("torch sees %d of the %d GPUs of this pod: nano is trained on the CPU", _seen(), gpus)
        return torch.device("cpu")
    return device_for(gpus, index)


def _seen() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def stage_device(run: RunFile, gpus: int | None) -> torch.device:
    """Where a stage of preprocessing computes: on the CPU with `gpus` 0, and by default when the preset is nano.

    Raises DeviceUnavailableError when it should be a GPU and torch sees none.
    """
    return device_for((0 if run.model.preset == "nano" else 1) if gpus is None else gpus)


def compute_type(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
