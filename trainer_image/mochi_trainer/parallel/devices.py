"""The device a process computes on, and the type of its numbers."""

from __future__ import annotations

import torch

from mochi_api.runfile import RunFile
from mochi_trainer.errors import DeviceUnavailableError


def device_for(gpus: int) -> torch.device:
    """The GPU of this pod, or the CPU when it has none.

    Raises DeviceUnavailableError when a GPU is asked for and torch sees none.
    """
    if gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceUnavailableError(f"the run file gives this pod {gpus} GPU, but torch sees none")
    torch.cuda.set_device(0)
    return torch.device("cuda", 0)


def stage_device(run: RunFile, gpus: int | None) -> torch.device:
    """Where a stage of preprocessing computes: on the CPU with `gpus` 0, and by default when the preset is nano.

    Raises DeviceUnavailableError when it should be a GPU and torch sees none.
    """
    return device_for((0 if run.model.preset == "nano" else 1) if gpus is None else gpus)


def compute_type(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
