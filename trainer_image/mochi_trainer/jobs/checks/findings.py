"""What a check has found: problems, of which the most final one names the end of the run, warnings, and what is good."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mochi_api.outcomes import ROWS, CheckResult, Item, Reason
from mochi_trainer import failures
from mochi_trainer.errors import (
    AccessDeniedError,
    DatasetRejectedError,
    DefectError,
    StorageError,
    TrainerError,
)

log = logging.getLogger(__name__)

MOST_FINAL_FIRST = (
    Reason.INVALID_INPUT,
    Reason.MISSING_OBJECT,
    Reason.DATASET_REJECTED,
    Reason.ACCESS_DENIED,
    Reason.DISK_FULL,
)
"""A value that cannot be used ends the run whatever is uploaded later; what may pass by itself comes last."""

MESSAGE_LENGTH = 1500
"""Characters of one problem: the termination log has to hold several."""
LINE_LENGTH = 200
"""Characters of a line of a `CheckResult`."""
CHECKED, WARNINGS = 16, 8
"""As many lines has a `CheckResult`."""


@dataclass(slots=True)
class Findings:
    """Grows while the checks go on; a check that fails adds its problem, and the next one begins."""

    problems: list[TrainerError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    clips: int = 0
    failed_items: list[Item] = field(default_factory=list)
    """Clips that cannot be used."""

    @contextmanager
    def problem(self, of: str) -> Iterator[None]:
        """Take what the block raises as a problem; a defect of the check itself is only a warning."""
        try:
            yield
        except PermissionError as error:
            self.problems.append(AccessDeniedError(f"no permission for {of}: {error}"))
        except OSError as error:
            self.problems.append(StorageError(f"{of}: {error}"))
        except Exception as error:
            self._take(failures.translated(error), of)

    def _take(self, error: TrainerError, of: str) -> None:
        if isinstance(error, DefectError):
            log.error("a defect of the check", exc_info=error.__cause__ or error)
            self.warnings.append(f"{of} could not be checked: {error}")
        elif str(error) not in map(str, self.problems):
            self.problems.append(error)

    def ordered(self) -> list[TrainerError]:
        """The problems, most final first, else as they were found."""
        return sorted(self.problems, key=_finality)

    def result(self) -> CheckResult:
        """For the outcome, in as many and as long lines as it takes."""
        return CheckResult(
            clips=self.clips,
            checked=[line[:LINE_LENGTH] for line in self.checked[:CHECKED]],
            warnings=[line[:LINE_LENGTH] for line in self.warnings[:WARNINGS]],
        )

    def joined(self) -> TrainerError:
        """One error for all problems: of the kind, and with the remedy, of the most final one."""
        first, *others = self.ordered()
        message = "; ".join(_bounded(each) for each in (first, *others))
        if others:
            message = f"{len(others) + 1} problems: {message}"
        if isinstance(first, DatasetRejectedError):
            return DatasetRejectedError(
                message, total=first.total, failures=first.failures, action=first.action
            )
        return type(first)(message, action=_action(first, others))


def _finality(error: TrainerError) -> tuple[bool, int]:
    known = error.reason in MOST_FINAL_FIRST
    return ROWS[error.reason].retryable, MOST_FINAL_FIRST.index(error.reason) if known else len(
        MOST_FINAL_FIRST
    )


def _bounded(error: TrainerError) -> str:
    text = str(error)
    return text if len(text) <= MESSAGE_LENGTH else f"{text[:MESSAGE_LENGTH]}…"


def _action(first: TrainerError, others: Sequence[TrainerError]) -> str | None:
    """The remedies of all; None when they are those of the table."""
    if not others:
        return first.action
    remedies = dict.fromkeys(each.action or ROWS[each.reason].action for each in (first, *others))
    return "; ".join(remedies)
