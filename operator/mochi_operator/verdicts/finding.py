"""What a check is shown and what it may find."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mochi_api.outcomes import Outcome, Reason
from mochi_operator.snapshot import Case, Child, Pod, leading
from mochi_operator.state import Attempt


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """An attempt that runs, its child and its pods."""

    case: Case
    attempt: Attempt
    child: Child
    pods: tuple[Pod, ...]
    """In the order of their ranks."""
    expected: int
    """How many pods there should be."""
    gang: bool
    """Whether they wait for each other."""
    gpus: int
    """GPUs of each pod."""
    beats: bool
    """Whether its image is known to give signs of life in the log."""

    @property
    def first(self) -> Pod | None:
        """The pod of rank 0."""
        return next((pod for pod in self.pods if pod.rank == 0), None)

    @property
    def leading(self) -> Pod | None:
        """The pod whose sign of life counts."""
        return leading(self.pods, gang=self.gang)

    @property
    def collected(self) -> int:
        """How many have ended well and are gone."""
        return max(0, self.child.succeeded - sum(pod.succeeded for pod in self.pods))

    @property
    def up(self) -> int:
        """How many run, or have ended well."""
        return sum(pod.running or pod.succeeded for pod in self.pods) + self.collected

    @property
    def all_run(self) -> bool:
        """Whether every pod runs, or has ended well."""
        return self.up >= self.expected


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that keeps an attempt from going on."""

    kind: str
    """What it is, in one word: while it stays the same, the time since it was first seen counts on."""
    message: str
    reason: Reason | None = None
    """What the attempt ends with when it lasts; None: it is only told."""
    patience: float = 0.0
    """Seconds it may last."""
    seen: datetime | None = None
    """When it was last told, where that is not now: it lasts only if it is told again."""
    exit_code: int | None = None
    last_step: int | None = None
    outcome: Outcome | None = None
    """What the container itself left, where that is the finding."""
