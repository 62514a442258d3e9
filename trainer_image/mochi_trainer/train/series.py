"""The series of a training, `metrics.jsonl`: one JSON object a step, continued without gap or repetition by a resume."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from mochi_api import layout
from mochi_trainer.errors import MissingObjectError, StorageError
from mochi_trainer.storage import Store
from mochi_trainer.train.evaluation import Losses
from mochi_trainer.train.step import StepRecord

log = logging.getLogger(__name__)

EVERY_SECONDS = 20.0
"""Time between two uploads, unless an upload takes more than a hundredth of it."""


class Series:
    """The lines so far, in memory and, now and then, in the store.

    A line has `step`, `loss`, `lr`, `gradNorm`, `stepSeconds`, `dataSeconds` (of these, for which rank 0 waited for its
    clips), `lossBySigma` (a list, of `mochi_trainer.sigma_bins`), `time` (Unix seconds) and, where they were evaluated,
    `fixedLoss`, `heldOutLoss` and `heldOutBySigma`, with `checkpoint: true` where the state was saved then; step 0 has only the latter. null stands for a number that is not finite,
    or not there.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._lines: dict[int, dict[str, Any]] = {}
        self._next_upload = 0.0
        self.changed = False
        """Whether there is anything that the store does not have."""

    def resume(self, step: int, store: Store | None = None) -> None:
        """Take over what an earlier attempt, or another run in `store`, stored up to `step`."""
        try:
            text = (store or self._store).read_bytes(layout.METRICS).decode()
        except MissingObjectError:
            return
        lines = (_parsed(line) for line in text.splitlines())
        self._lines = {line["step"]: line for line in lines if line is not None and line["step"] <= step}

    def add(self, record: StepRecord) -> None:
        """Append a step."""
        self._line(record.step).update(
            loss=_finite(record.loss),
            lr=record.learning_rate,
            gradNorm=_finite(record.gradient_norm),
            stepSeconds=round(record.seconds, 6),
            dataSeconds=round(record.data_seconds, 6),
            lossBySigma=list(record.by_sigma),
            time=round(self._clock(), 3),
        )

    def add_fixed_loss(self, step: int, loss: float) -> None:
        """Note the loss of the fixed batch after `step` steps."""
        self._line(step).update(fixedLoss=_finite(loss), time=round(self._clock(), 3))

    def add_held_out(self, step: int, losses: Losses) -> None:
        """Note the losses of the clips that are held out after `step` steps."""
        self._line(step).update(
            heldOutLoss=_finite(losses.loss),
            heldOutBySigma=[_finite(loss) for loss in losses.by_sigma],
            time=round(self._clock(), 3),
        )

    def add_checkpoint(self, step: int) -> None:
        """Note that the state is saved after `step` steps, where the held out clips were evaluated."""
        if "heldOutLoss" in self._lines.get(step, {}):
            self._line(step)["checkpoint"] = True

    @property
    def saved(self) -> list[int]:
        """The steps that were noted by `add_checkpoint`."""
        return sorted(step for step, line in self._lines.items() if line.get("checkpoint"))

    @property
    def losses(self) -> list[float | None]:
        """The loss of each step, in order."""
        return [line["loss"] for _, line in sorted(self._lines.items()) if "loss" in line]

    @property
    def held_out_losses(self) -> dict[int, float]:
        """The loss of the clips that are held out by step, in order, where it is finite."""
        lines = sorted(self._lines.items())
        return {step: line["heldOutLoss"] for step, line in lines if line.get("heldOutLoss") is not None}

    @property
    def fixed_losses(self) -> dict[int, float | None]:
        """The loss of the fixed batch by step."""
        return {step: line["fixedLoss"] for step, line in self._lines.items() if "fixedLoss" in line}

    @property
    def seconds(self) -> float:
        """Duration of all steps together, those of earlier attempts included."""
        return float(sum(line.get("stepSeconds", 0.0) for line in self._lines.values()))

    def upload(self) -> None:
        """Store all lines now. Raises what the store raises."""
        started = self._clock()
        text = "".join(json.dumps(line) + "\n" for _, line in sorted(self._lines.items()))
        self._store.write_bytes(layout.METRICS, text.encode())
        ended = self._clock()
        self.changed = False
        self._next_upload = ended + max(EVERY_SECONDS, 100 * (ended - started))

    def upload_if_due(self) -> None:
        """Store all lines when the last time is long enough ago; a store that does not answer is no reason to stop."""
        if not self.changed or self._clock() < self._next_upload:
            return
        try:
            self.upload()
        except StorageError as error:
            self._next_upload = self._clock() + EVERY_SECONDS
            log.warning("%s is not up to date: %s", self._store.address(layout.METRICS), error)

    def _line(self, step: int) -> dict[str, Any]:
        self.changed = True
        return self._lines.setdefault(step, {"step": step})


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("step"), int) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
