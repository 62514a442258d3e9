"""What every builder is given."""

from __future__ import annotations

from dataclasses import dataclass, field

from mochi_api.runfile import CacheKeys, Stage
from mochi_api.spec import FineTuneSpec
from mochi_api.status import Resolved
from mochi_operator import names
from mochi_operator.snapshot import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One child to make."""

    run: Run
    spec: FineTuneSpec
    resolved: Resolved
    stage: Stage
    attempt: int = 1
    keys: CacheKeys = field(default_factory=CacheKeys)

    @property
    def child(self) -> str:
        """Name of the Job or of the training object."""
        if self.stage == "train":
            return names.attempt_job(self.run.name, self.attempt)
        return names.stage_job(self.run.name, self.stage)
