"""The run as a whole takes no longer than it may."""

from __future__ import annotations

from mochi_api.outcomes import ROWS, Reason
from mochi_api.runfile import STAGES
from mochi_operator.plan import Draft
from mochi_operator.policy import ending
from mochi_operator.snapshot import Case


def deadline(case: Case, draft: Draft) -> Draft:
    """Policy: runPolicy.activeDeadlineSeconds, as it is now, counted from the run's creation."""
    limit = case.spec.run_policy.active_deadline_seconds
    if not limit:
        return draft
    left = limit - case.age(case.run.created)
    if left > 0:
        return draft.waking(left)
    troubles = [draft.state.steps[name].trouble for name in STAGES]
    waits = [trouble.message for trouble in troubles if trouble is not None]
    why = f" while it waited: {waits[0]}" if waits else ""
    message = f"the run took longer than runPolicy.activeDeadlineSeconds = {limit}{why}"
    reason = Reason.DEADLINE_EXCEEDED
    draft = ending.adopted(case.family, draft)
    return ending.failed(case, draft, reason, message, ROWS[reason].action)
