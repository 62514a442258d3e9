"""The sign of life of a pod: `GET /heartbeat` of a training pod, and a line of the log of every pod.

All times are ages, taken when the sign is given: two machines need not agree on the time. `/progress`, which earlier
versions ask for, stays as it was.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_core import from_json

from mochi_api.base import ApiModel
from mochi_api.reading import lenient

PATH = "/heartbeat"
LINE_PREFIX = "mochi-heartbeat "
"""A line of the log that carries one starts with it; the rest of the line is the JSON."""
LINE_SECONDS = 15.0
"""A pod writes such a line at least so often, whatever it is doing, and the first when its program starts."""

DIVERGING = 2.0
"""From this `lossRatio` on a training diverges: noise alone moves a mean of 50 steps by a fraction of that."""

LONGEST_DELAY = 512
"""Characters of `checkpoint_delay`."""

NOT_TOLD = "not told"
"""Activity of a pod whose image, of an earlier version, does not say what it is doing."""

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Heartbeat(ApiModel):
    """What a pod is doing, and for how long nothing has moved."""

    attempt: Count
    """Attempt of the step that the pod belongs to."""
    activity: Annotated[str, Field(max_length=64)]
    """In a word or three: `starting`, `waiting for peers`, `loading`, `training`, `saving`, `exporting`, `working`."""
    quiet_seconds: Seconds
    """Since anything moved: a step or a clip was done, bytes were read or written, another peer arrived."""
    done: Count = 0
    """Steps or clips that are done, counting those before a resume."""
    total: Count = 0
    """Steps or clips in all; 0 while it is not known."""
    loss: Number | None = None
    """Loss of the last step; None when it was not finite or there is none yet."""
    grad_norm: Number | None = None
    step_seconds: Seconds | None = None
    """Mean duration of the last steps."""
    step_age_seconds: Seconds | None = None
    """Since the last completed step; None before the first of this attempt."""
    checkpoint_step: Count | None = None
    checkpoint_uri: Annotated[str, Field(max_length=2048)] | None = None
    checkpoint_age_seconds: Seconds | None = None
    checkpoint_delay: Annotated[str, Field(max_length=LONGEST_DELAY)] | None = None
    """Why the newest checkpoint is not complete although the store was asked: it does not answer, or refuses; else None."""
    non_finite: Count = 0
    """Steps with a loss or gradient that was not finite."""
    held_out_loss: Number | None = None
    """Last loss of the clips that are held out; None when it was not finite, or there are none."""
    best_step: Count | None = None
    """Step of the checkpoint with the lowest loss of the clips that are held out."""
    best_held_out_loss: Number | None = None
    """That loss."""
    overfits_from_step: Count | None = None
    """Step from which on the loss of the held out clips has only been higher; None while it still falls."""
    loss_ratio: Number | None = None
    """Mean loss of the last 50 steps over the lowest such mean so far; None before there are so many."""

    def to_line(self) -> str:
        """This sign as a line of the log."""
        return LINE_PREFIX + self.model_dump_json(by_alias=True, exclude_none=True)


def newest(log: str) -> Heartbeat | None:
    """The last sign of life in a piece of a log, or None when there is none."""
    for line in reversed(log.splitlines()):
        _, found, document = line.partition(LINE_PREFIX)
        heartbeat = parse(document) if found else None
        if heartbeat is not None:
            return heartbeat
    return None


def parse(document: str | bytes) -> Heartbeat | None:
    """A sign of life from JSON, or None when it is none; parts that cannot be read count as absent."""
    try:
        raw = from_json(document)
    except ValueError:
        return None
    return lenient(Heartbeat, raw)
