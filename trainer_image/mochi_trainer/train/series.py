"""The series of a training, `metrics.jsonl`: one JSON object a step, continued without gap or repetition by a resume.

TensorBoard's event file beside it is made of the same lines.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from mochi_api import layout
from mochi_api.resolved import LEAST_LEVELS
from mochi_trainer.documents import json_object
from mochi_trainer.errors import AccessDeniedError, MissingObjectError, StorageError
from mochi_trainer.storage import Store
from mochi_trainer.train.evaluation import Losses
from mochi_trainer.train.event_file import EventFile
from mochi_trainer.train.step import StepRecord

log = logging.getLogger(__name__)

EVERY_SECONDS = 20.0
"""Time between two uploads, unless an upload takes more than a hundredth of it."""


class Series:
    """The lines so far, in memory and, now and then, in the store; one thread may add while others upload.

    A line has `step`, `loss`, `lr`, `gradNorm`, `stepSeconds`, `dataSeconds` (of these, for which rank 0 waited for its
    clips), `lossBySigma` (a list, of `mochi_trainer.sigma_bins`), `time` (Unix seconds) and, where they were evaluated,
    `fixedLoss`, `heldOutLoss`, `heldOutBySigma` and `heldOutLevels` (noise levels of each of these clips), with
    `checkpoint: true` where the state was saved then; step 0 has only the latter. null stands for a number that is not
    finite, or not there.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
        told: Callable[[dict[str, Any]], None] | None = None,
        retold: bool = False,
    ) -> None:
        """`clock` is for the lines, `elapsed` for the time between uploads; `told` gets each number with its step when it is noted, in parts of a line; `retold`: also what is taken over."""
        self._store, self._told, self._retold = store, told, retold
        self._clock, self._elapsed = clock, elapsed
        self._lines: dict[int, dict[str, Any]] = {}
        self._events = EventFile()
        self._adding, self._uploading = threading.Lock(), threading.Lock()
        self._next_upload = -math.inf
        self.changed = False
        """Whether there is anything that the store does not have."""

    def resume(self, step: int, store: Store | None = None) -> None:
        """Take over what an earlier attempt, or another run in `store`, stored up to `step`."""
        try:
            text = (store or self._store).read_bytes(layout.METRICS).decode(errors="replace")
        except MissingObjectError:
            return
        lines = (_parsed(line) for line in text.splitlines())
        self._lines = {line["step"]: line for line in lines if line is not None and line["step"] <= step}
        if self._retold and self._told is not None:
            for _, line in sorted(self._lines.items()):
                self._told(dict(line))

    def add(self, record: StepRecord) -> None:
        """Append a step."""
        self._note(
            record.step,
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
        self._note(step, fixedLoss=_finite(loss), time=round(self._clock(), 3))

    def add_held_out(self, step: int, losses: Losses) -> None:
        """Note the losses of the clips that are held out after `step` steps."""
        self._note(
            step,
            heldOutLoss=_finite(losses.loss),
            heldOutBySigma=[_finite(loss) for loss in losses.by_sigma],
            heldOutLevels=losses.levels,
            time=round(self._clock(), 3),
        )

    def add_checkpoint(self, step: int) -> None:
        """Note that the state is saved after `step` steps, where the held out clips were evaluated."""
        if "heldOutLoss" in self._lines.get(step, {}):
            self._note(step, checkpoint=True)

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
    def held_out_levels(self) -> int | None:
        """Noise levels at which each of these clips was last evaluated; None before the first evaluation."""
        found = [line for _, line in sorted(self._lines.items()) if "heldOutLoss" in line]
        return found[-1].get("heldOutLevels", LEAST_LEVELS) if found else None

    @property
    def fixed_losses(self) -> dict[int, float | None]:
        """The loss of the fixed batch by step."""
        return {step: line["fixedLoss"] for step, line in self._lines.items() if "fixedLoss" in line}

    @property
    def seconds(self) -> float:
        """Duration of all steps together, those of earlier attempts included."""
        return float(sum(line.get("stepSeconds", 0.0) for line in self._lines.values()))

    @property
    def due(self) -> bool:
        """Whether the last upload is long enough ago, and something has changed."""
        return self.changed and self._elapsed() >= self._next_upload

    def upload(self, store: Store | None = None) -> None:
        """Store all lines now; `store` has the same root as its own.

        Raises what the store raises; for the event file a store that does not answer is no reason to.
        """
        with self._uploading:
            started = self._elapsed()
            to = store or self._store
            with self._adding:
                lines = [dict(line) for _, line in sorted(self._lines.items())]
                self.changed = False
            text = "".join(json.dumps(line) + "\n" for line in lines)
            try:
                to.write_bytes(layout.METRICS, text.encode())
            except BaseException:
                self.changed = True
                raise
            try:
                to.write_bytes(layout.EVENTS, self._events.content(lines))
            except StorageError as error:
                log.warning("%s is not up to date: %s", to.address(layout.EVENTS), error)
            ended = self._elapsed()
            self._next_upload = ended + max(EVERY_SECONDS, 100 * (ended - started))

    def upload_if_due(self, store: Store | None = None) -> None:
        """`upload` when the last time is long enough ago; a store that does not answer, or refuses, is no reason to stop."""
        if not self.due:
            return
        try:
            self.upload(store)
        except (StorageError, AccessDeniedError) as error:
            self._next_upload = self._elapsed() + EVERY_SECONDS
            log.warning("%s is not up to date: %s", self._store.address(layout.METRICS), error)

    def _note(self, step: int, **numbers: Any) -> None:
        with self._adding:
            self.changed = True
            self._lines.setdefault(step, {"step": step}).update(numbers)
        if self._told is not None:
            self._told({"step": step, **numbers})


NUMBERS = (
    "loss",
    "lr",
    "gradNorm",
    "stepSeconds",
    "dataSeconds",
    "time",
    "fixedLoss",
    "heldOutLoss",
    "heldOutLevels",
)
LISTS = ("lossBySigma", "heldOutBySigma")
"""Of a line."""
LARGEST = 1e300
"""Numbers are below it; a damaged line may have one that is no float."""


def _parsed(line: str) -> dict[str, Any] | None:
    """A line as it was written; None where it is damaged, since the series is told only, and nothing is computed from it."""
    try:
        parsed = json_object(line)
    except ValueError:
        return None
    lists = [parsed.get(name, []) for name in LISTS]
    if not all(isinstance(each, list) for each in lists):
        return None
    numbers = [parsed.get(name) for name in NUMBERS] + [number for each in lists for number in each]
    whole = type(parsed.get("step")) is int and all(map(_number_or_none, numbers))
    return parsed if whole else None


def _number_or_none(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) < LARGEST)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
