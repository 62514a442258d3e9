"""Any exception as one of ours, so that each has an exit code and says whose move it is."""

from __future__ import annotations

import errno
import os
import sys

from mochi_api.runfile import RunFileError
from mochi_trainer.errors import (
    CollectiveTimeoutError,
    DefectError,
    DeviceUnavailableError,
    DiskFullError,
    InvalidInputError,
    OutOfMemoryError,
    PreemptedError,
    TrainerError,
    disk_full,
)

_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "status_alloc_failed",
)
_DEVICE = (
    "cuda error",
    "no nvidia driver",
    "no cuda gpus",
    "nvml",
    "cuda driver",
    "device-side",
    "uncorrectable ecc",
)
_COLLECTIVE = (
    "nccl", "gloo", "processgroup", "connection closed by peer", "connection reset by peer", "timed out waiting",
    "rendezvous", "tcpstore", "socket timeout",
)  # fmt: skip


def translated(error: BaseException) -> TrainerError:
    """`error` itself when it is one of ours, else the class that fits it; a defect when none does."""
    if isinstance(error, TrainerError):
        return error
    if isinstance(error, RunFileError):
        return InvalidInputError(str(error))
    if isinstance(error, KeyboardInterrupt):
        return PreemptedError(str(error) or "interrupted")
    return _of_machine(error) or DefectError(f"{type(error).__name__}: {_one_line(error)}")


def _of_machine(error: BaseException) -> TrainerError | None:
    """Errors of memory, disk, GPU and network, by type where there is one, else by the text of a RuntimeError."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return OutOfMemoryError(f"the pod's memory is too small: {_one_line(error)}".rstrip(": "))
    if _of_full_disk(error):
        return DiskFullError(f"no space left on the local disk: {_one_line(error)}")
    return _of_torch(error) if isinstance(error, RuntimeError) else None


def _of_full_disk(error: BaseException) -> bool:
    """By its number, or by the words of libraries that keep no number: those that write safetensors, and torch."""
    if isinstance(error, OSError):
        return disk_full(error)
    return any(os.strerror(number).lower() in str(error).lower() for number in (errno.ENOSPC, errno.EDQUOT))


def _of_torch(error: RuntimeError) -> TrainerError | None:
    text = _one_line(error)
    lower = text.lower()
    if _is_torch(error, "OutOfMemoryError") or any(part in lower for part in _MEMORY):
        return OutOfMemoryError(text)
    if _is_torch_distributed(error) or any(part in lower for part in _COLLECTIVE):
        return CollectiveTimeoutError(text)
    if _is_torch(error, "AcceleratorError") or any(part in lower for part in _DEVICE):
        return DeviceUnavailableError(text)
    return None


def _is_torch(error: BaseException, name: str) -> bool:
    kind = getattr(sys.modules.get("torch"), name, None)
    return kind is not None and isinstance(error, kind)


def _is_torch_distributed(error: BaseException) -> bool:
    return any(kind.__module__ == "torch.distributed" for kind in type(error).__mro__)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1500]
