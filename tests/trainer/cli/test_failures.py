"""Each exception has its line in the table."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from mochi_api.outcomes import Reason
from mochi_api.runfile import RunFileError
from mochi_trainer import cpus, errors
from mochi_trainer.errors import DiskFullError, NonFiniteLossError, TrainerError
from mochi_trainer.failures import translated
from mochi_trainer.logs import JsonLines


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (DiskFullError("x"), Reason.DISK_FULL, 11),
        (RunFileError("mode: wrong"), Reason.INVALID_INPUT, 2),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Reason.OUT_OF_MEMORY, 7),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), Reason.OUT_OF_MEMORY, 7),
        (MemoryError(), Reason.OUT_OF_MEMORY, 7),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Reason.OUT_OF_MEMORY, 7),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), Reason.OUT_OF_MEMORY, 7),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), Reason.OUT_OF_MEMORY, 7),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK_FULL, 11),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            Reason.DISK_FULL,
            11,
        ),
        (OSError(errno.EIO, "Input/output error"), Reason.BUG, 1),
        (torch.distributed.DistBackendError("NCCL watchdog"), Reason.COLLECTIVE_TIMEOUT, 9),
        (RuntimeError("Connection closed by peer [10.0.0.3]:2000"), Reason.COLLECTIVE_TIMEOUT, 9),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Reason.DEVICE_UNAVAILABLE, 10),
        (RuntimeError("Found no NVIDIA driver on your system"), Reason.DEVICE_UNAVAILABLE, 10),
        (KeyboardInterrupt(), Reason.PREEMPTED, 143),
        (KeyError("surprise"), Reason.BUG, 1),
        (RuntimeError("shape mismatch"), Reason.BUG, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_exception_has_its_reason_and_code(error: BaseException, reason: Reason, code: int) -> None:
    found = translated(error)
    assert (found.reason, found.exit_code) == (reason, code)


def test_our_own_errors_stay_as_they_are() -> None:
    error = NonFiniteLossError("loss was NaN", step=12)
    assert translated(error) is error
    assert error.step == 12


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    classes = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert errors.__doc__ is not None
    for kind in classes:
        assert f"── {kind.__name__} " in errors.__doc__
    reasons = [kind.reason for kind in classes if TrainerError in kind.__bases__]
    assert len(reasons) == len(set(reasons))


def test_json_logs_are_one_line_with_the_traceback_inside() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        trouble = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("mochi_trainer", logging.ERROR, "", 1, "clip %s", ("a",), trouble)
    text = JsonLines(rank=3).format(record)
    assert "\n" not in text
    entry = json.loads(text)
    assert (entry["level"], entry["message"], entry["rank"]) == ("error", "clip a", 3)
    assert "ValueError: two" in entry["traceback"]


@pytest.mark.parametrize(
    ("text", "most"), [("150000 100000\n", 2), ("50000 100000", 1), ("max 100000", 10_000)]
)
def test_threads_follow_the_limit_of_the_container(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert 1 <= cpus.available(tmp_path / "cpu.max") <= most
    assert cpus.available(tmp_path / "absent") >= 1
