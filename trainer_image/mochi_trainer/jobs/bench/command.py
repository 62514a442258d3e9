"""The command bench: one table within a given time, on a GPU measured, without one counted; nano is measured on a CPU too."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from mochi_api.prediction.admission import gibibytes
from mochi_api.prediction.fitting import least_needed
from mochi_api.prediction.work import work_of_run
from mochi_api.spec import Preset
from mochi_trainer.errors import DeviceUnavailableError, InvalidInputError, OutOfMemoryError, TrainerError
from mochi_trainer.failures import translated
from mochi_trainer.jobs.bench import counted, timed
from mochi_trainer.jobs.bench.cases import WARM_UP, Case, cases, run_of
from mochi_trainer.jobs.bench.table import Cell, Table
from mochi_trainer.jobs.left_alone import free_bytes
from mochi_trainer.parallel.devices import device_for
from mochi_trainer.storage import require_folder

log = logging.getLogger(__name__)

Row = Mapping[str, Cell]
LATE = "left out: the time was used up"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked."""

    preset: Preset
    case: list[str]
    """Such as `lora:37`; empty for all that are usual."""
    minutes: float
    """Of the whole command, but for Python's start."""
    out: Path
    """The folder for `bench.csv` and `bench.md`."""


def bench(request: Request, stream: TextIO) -> None:
    """Write the table, row by row, within the time, to `stream` too.

    Raises InvalidInputError for a case or a time that is none and for a folder that cannot be written, and in the end the first failure that was not
    want of memory, or at once DeviceUnavailableError. Each row is on the disk before the next case begins.
    """
    deadline = time.monotonic() + 60 * request.minutes
    if not 0 < request.minutes < math.inf:
        raise InvalidInputError(f"--minutes must be above 0 and finite, got {request.minutes:g}")
    wanted = cases(request.case, request.preset)
    require_folder(request.out, "--out")
    if torch.cuda.is_available() or request.preset == "nano":
        device = device_for(int(torch.cuda.is_available()))
        table = Table(request.out, timed.COLUMNS, _title(request, _measured_words(device)), stream)
        rows = _timed_rows(wanted, request.preset, device, deadline)
    else:
        table = Table(request.out, counted.COLUMNS, _title(request, _COUNTED), stream)
        rows = _counted_rows(wanted, deadline)
    for row in rows:
        table.add(row)
    log.info("the table is in %s", request.out)


_COUNTED = (
    "no GPU is there, so a step is counted on tensors without memory, and nothing is timed; "
    "against Diffusers' loop: tests/bench/counted_against_diffusers.py, where Diffusers is installed"
)


def _measured_words(device: torch.device) -> str:
    where = timed.product(device) or "a CPU, float32"
    return f"{where}; steps with their data after the first {WARM_UP}, weights and clips drawn, the longest captions"


def _title(request: Request, words: str) -> str:
    given = ["--preset", request.preset, *(word for text in request.case for word in ("--case", text))]
    command = f"python -m mochi_trainer bench {shlex.join(given)} --minutes {request.minutes:g}"
    return f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}: {words}."


def _timed_rows(
    wanted: Sequence[Case], preset: Preset, device: torch.device, deadline: float
) -> Iterator[Row]:
    """What cannot fit is told first; the others share the time, and what one leaves goes to the next."""
    fitting = []
    for case in wanted:
        free = free_bytes(device) if device.type == "cuda" else None
        if free is None or (note := lacking(case, preset, free)) is None:
            fitting.append(case)
        else:
            yield _without(case, note)
    setup, attempts = 0.0, _Attempts()
    for number, case in enumerate(fitting):
        now = time.monotonic()
        if now + setup >= deadline:
            yield _without(case, LATE)
            continue
        log.info("%s: %.0f s are left for %d cases", case, deadline - now, len(fitting) - number)
        until = now + (deadline - now) / (len(fitting) - number)
        row = attempts.row(case, partial(timed.measured, case, preset, device, until=until))
        setup = max(setup, float(row.get("setup_seconds") or 0))
        yield row
    if attempts.failed is not None:
        raise attempts.failed


def lacking(case: Case, preset: Preset, free: int) -> str | None:
    """Why a case cannot be measured on one GPU with `free` bytes; None when it can."""
    need = least_needed(work_of_run(run_of(case, preset, Path("/"), gpus=1)))
    if need <= free:
        return None
    return f"does not fit: {gibibytes(need)} GiB are needed, {gibibytes(free)} GiB are free"


def _counted_rows(wanted: Sequence[Case], deadline: float) -> Iterator[Row]:
    longest = 0.0
    for case in wanted:
        now = time.monotonic()
        if now + longest >= deadline:
            yield _without(case, LATE)
            continue
        yield counted.counted(case)
        longest = max(longest, time.monotonic() - now)


class _Attempts:
    """Cases tried one after the other: a GPU may be there for minutes only, so one that fails costs no other its turn."""

    def __init__(self) -> None:
        self.failed: TrainerError | None = None
        """The first failure that is not just want of memory."""

    def row(self, case: Case, measure: Callable[[], Row]) -> Row:
        """The row, or one that says what was in its way. Raises DeviceUnavailableError when the device is lost."""
        try:
            return measure()
        except Exception as error:
            ours = translated(error)
            if isinstance(ours, DeviceUnavailableError):
                raise ours from error
            if not isinstance(ours, OutOfMemoryError):
                log.exception("%s failed", case)
                self.failed = self.failed or ours
            return _without(case, f"{ours.reason}: {ours}"[:300])


def _without(case: Case, note: str) -> Row:
    return {"mode": case.mode, "frames": case.frames, "note": note}
