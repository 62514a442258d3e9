"""What rank 0 answers on `GET /progress`, and the port it answers on."""

from __future__ import annotations

from mochi_api.base import ApiModel

PORT = 9464
"""`/metrics` and `/progress` of a training pod; the port's name in the pod is `metrics`."""


class Progress(ApiModel):
    """A small snapshot of training; `loss: null` stands for a loss that is not finite or not known yet."""

    step: int
    """Steps completed so far, counting those before a resume."""
    total_steps: int
    loss: float | None = None
    grad_norm: float | None = None
    step_seconds: float | None = None
    """Mean duration of the last steps, in seconds."""
    last_step_time: float | None = None
    """Unix time of the last completed step, in seconds."""
    checkpoint_step: int | None = None
    checkpoint_uri: str | None = None
    checkpoint_time: float | None = None
    non_finite: int = 0
    """Steps with a loss or gradient that was not finite."""
