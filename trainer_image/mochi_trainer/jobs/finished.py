"""What a job hands back to `__main__`, which turns it into the outcome, the stage's record and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mochi_api.outcomes import CheckResult, Item, SampleResult, StageResult, TrainingResult

FIRST_FAILURES = 8
"""As many failures fit into a result; the record and the report have all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A job that ended well; one that does not raises a `TrainerError`."""

    result: StageResult | TrainingResult | SampleResult | CheckResult | None
    """Goes to the termination log; None from a rank, or a shard of a stage, other than the first."""

    message: str = ""
    """One sentence for the user."""

    failures: Sequence[Item] = ()
    """All clips that could not be used; the result has only the first of them."""

    details: Mapping[str, Any] = field(default_factory=dict)
    """What the report shows beyond the result; plain JSON. Of the job sample it reads `samples`: a list of
    {"prompt", "video", "sheet", "seed"}, video and sheet as addresses below the run's folder; of the job train
    `otherFiles`: a list of {"uri", "sizeBytes"}, what lies beside the main file; of the job videos
    `reconstructions`: a list of {"clip", "source", "psnr", "picture"}, the picture as a key of the cache."""
