"""Whether training goes well: steps are made, and the loss is a number."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from mochi_api.outcomes import Reason
from mochi_api.progress import Progress
from mochi_operator import conditions
from mochi_operator.plan import Draft
from mochi_operator.policy.verdicts import Verdict
from mochi_operator.snapshot import Pod, Snapshot

SILENCE = 3
"""Questions in a row without an answer after which nothing is known any more."""
FINISHING = 4
"""Export and upload after the last step may take this many times the stall timeout."""


def told(snapshot: Snapshot, draft: Draft) -> Draft:
    """TrainingHealthy from the newest answer of rank 0; silence is unknown, not failure."""
    progress = snapshot.progress
    if progress is None:
        if snapshot.progress_misses < SILENCE:
            return draft
        message = "rank 0 does not answer on /progress"
        return _said(snapshot, draft, "Unknown", "ProgressUnavailable", message)
    if progress.step == 0:
        return draft
    if progress.loss is None:
        message = f"the loss is not finite; {progress.non_finite} such steps so far"
        return _said(snapshot, draft, "False", Reason.NON_FINITE_LOSS, message)
    message = f"{progress.non_finite} steps were not finite" if progress.non_finite else ""
    return _said(snapshot, draft, "True", "Stepping", message)


def stalled(snapshot: Snapshot, pods: Sequence[Pod]) -> Verdict | None:
    """No step for longer than runPolicy.stallTimeoutSeconds, as far as rank 0 itself says so."""
    assert snapshot.spec is not None, "an unreadable spec was dealt with before"
    limit = snapshot.spec.run_policy.stall_timeout_seconds
    first = next((pod for pod in pods if pod.rank == 0), None)
    since = _since(snapshot.progress, first)
    if since is None:
        return None
    progress = snapshot.progress
    finishing = progress is None or progress.step >= progress.total_steps
    bound = limit * FINISHING if finishing else limit
    if (snapshot.now - since).total_seconds() <= bound:
        return None
    step = f"after step {progress.step}" if progress is not None else "since rank 0 ended"
    message = f"no step for more than {bound} s {step} (runPolicy.stallTimeoutSeconds = {limit})"
    return Verdict(
        reason=Reason.STALLED, message=message, last_step=progress.step if progress is not None else None
    )


def _since(progress: Progress | None, first: Pod | None) -> datetime | None:
    """When something was last known to go on: the last step, the start of rank 0, or its end before the others'."""
    if first is None:
        return None
    if progress is None:
        return first.finished if first.exit_code == 0 else None
    if progress.last_step_time is None:
        return first.started
    step = datetime.fromtimestamp(progress.last_step_time, UTC)
    return max(step, first.started) if first.started is not None else step


def _said(snapshot: Snapshot, draft: Draft, truth: conditions.Truth, reason: str, message: str) -> Draft:
    news = truth == "False" and not conditions.has_reason(draft.status, "TrainingHealthy", reason)
    status = conditions.put(draft.status, "TrainingHealthy", truth, reason, message, snapshot.now)
    draft = draft.with_status(conditions=status.conditions)
    return draft.warning(reason, message) if news else draft
