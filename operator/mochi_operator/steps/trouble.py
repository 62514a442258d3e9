"""What keeps a step from going on, timed from when it was first seen; pure."""

from __future__ import annotations

from dataclasses import replace

from mochi_operator.snapshot import Case
from mochi_operator.state import Step, Trouble
from mochi_operator.verdicts.finding import Finding

ANNOUNCE_SECONDS = 20.0
"""A trouble that has lasted for so long becomes an Event; shorter ones are in the condition only."""
TOLD_AGAIN = 0.4
"""Share of the patience after which an Event must have told it again; controllers try again at growing intervals."""
VIGIL_SECONDS = 60.0
"""An operator that has just started, or whose clock was set, sees for itself for so long before it loses patience."""
WATCH_SECONDS = 30.0
"""An attempt is looked at so often, whatever the watches report."""


def kept(case: Case, step: Step, finding: Finding | None, *, blind: bool = False) -> Step:
    """The step with what is found now; the same trouble keeps the time since it was first seen.

    `blind` when not everything could be read: then nothing found does not mean that nothing is.
    """
    if finding is None:
        return step if blind else replace(step, trouble=None)
    old = step.trouble
    if old is not None and old.kind == finding.kind:
        return replace(step, trouble=replace(old, message=finding.message))
    return replace(step, trouble=Trouble(kind=finding.kind, message=finding.message, since=case.now))


def remembered(step: Step) -> Finding | None:
    """What was found before, when not everything could be read this time."""
    old = step.trouble
    return None if old is None else Finding(kind=old.kind, message=old.message)


def lasts_too_long(case: Case, step: Step, finding: Finding) -> bool:
    """Whether the patience with it is over; what an Event told once must have been told again well into that time."""
    assert step.trouble is not None, "a finding makes a trouble"
    if finding.reason is None or case.age(step.trouble.since) < finding.patience:
        return False
    if _vigil_left(case, finding) > 0:
        return False
    return (
        finding.seen is None
        or (finding.seen - step.trouble.since).total_seconds() >= finding.patience * TOLD_AGAIN
    )


def look_again(case: Case, step: Step, finding: Finding | None) -> float:
    """Seconds until something about it is due: its end, its Event, or another look."""
    if finding is None or step.trouble is None:
        return WATCH_SECONDS
    left = WATCH_SECONDS
    if finding.reason is not None:
        left = max(finding.patience - case.age(step.trouble.since), _vigil_left(case, finding))
    untold = WATCH_SECONDS if step.trouble.announced else ANNOUNCE_SECONDS
    return max(1.0, min(left, untold, WATCH_SECONDS))


def _vigil_left(case: Case, finding: Finding) -> float:
    return min(finding.patience, VIGIL_SECONDS) - case.watched_seconds
