"""How a command ended: the outcome for the operator, and what the record has beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mochi_api.outcomes import CheckResult, Item, Outcome, Reason, SampleResult, StageResult, TrainingResult
from mochi_trainer import failures
from mochi_trainer.errors import DatasetRejectedError
from mochi_trainer.jobs.finished import FIRST_FAILURES, Finished

ACTION_LENGTH = 512
"""Characters of `Outcome.action`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """An outcome with the full list of failures."""

    outcome: Outcome
    failures: tuple[Item, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def with_report(self, address: str) -> Ending:
        """As this, with the address of the report where the outcome of its kind has one: samples, and failures."""
        result = self.outcome.sample_result
        changes: dict[str, Any] = {}
        if result is not None:
            changes["sample_result"] = result.model_copy(update={"report_uri": address})
        if self.outcome.reason is not Reason.COMPLETED:
            changes["report_uri"] = address
        return replace(self, outcome=self.outcome.model_copy(update=changes))


def success(finished: Finished, rank: int) -> Ending:
    """The end of a job that returned."""
    result = finished.result
    outcome = Outcome(
        reason=Reason.COMPLETED,
        message=finished.message,
        rank=rank,
        stage_result=result if isinstance(result, StageResult) else None,
        training_result=result if isinstance(result, TrainingResult) else None,
        sample_result=result if isinstance(result, SampleResult) else None,
        check_result=result if isinstance(result, CheckResult) else None,
    )
    return Ending(outcome=outcome, failures=tuple(finished.failures), details=finished.details)


def failure(error: BaseException, rank: int) -> Ending:
    """The end of a job that raised."""
    ours = failures.translated(error)
    action = None if ours.action is None else ours.action[:ACTION_LENGTH]
    outcome = Outcome(reason=ours.reason, message=str(ours), action=action, rank=rank, step=ours.step)
    if not isinstance(ours, DatasetRejectedError):
        return Ending(outcome=outcome)
    counted = StageResult(
        items_total=ours.total, items_failed=len(ours.failures), failures=list(ours.failures[:FIRST_FAILURES])
    )
    return Ending(outcome=outcome.model_copy(update={"stage_result": counted}), failures=ours.failures)
