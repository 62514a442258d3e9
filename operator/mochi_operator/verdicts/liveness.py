"""Whether the work goes on: signs of life of rank 0, while every pod of the gang runs.

Shards do not wait for each other: the first that runs is listened to, and the next when it has ended. One that hangs
meanwhile holds nothing up, since the others make what it has claimed.
"""

from __future__ import annotations

from mochi_api.heartbeat import NOT_TOLD
from mochi_api.outcomes import Reason
from mochi_operator.snapshot import Reading
from mochi_operator.verdicts.finding import Finding, View

NOT_TOLD_FACTOR = 4
"""An image of an earlier version does not tell whether loading and exporting go on: they may take so much longer."""
SILENCE = 3
"""Questions in a row without an answer after which nothing is known any more."""


def stalled(view: View) -> Finding | None:
    """Nothing has moved for longer than runPolicy.stallTimeoutSeconds, as the pod itself says."""
    reading = _reading(view)
    if reading is None or reading.heartbeat is None or reading.silent:
        return None
    beat, limit = reading.heartbeat, view.case.spec.run_policy.stall_timeout_seconds
    bound = limit * NOT_TOLD_FACTOR if beat.activity == NOT_TOLD else limit
    quiet = beat.quiet_seconds + reading.age_seconds
    started = view.leading.main.started if view.leading is not None else None
    if beat.activity == NOT_TOLD and beat.step_age_seconds is None and started is not None:
        quiet = view.case.age(started)
    if quiet <= bound:
        return None
    message = (
        f"nothing has moved for more than {bound} s while {beat.activity}, after step {beat.done} "
        f"(runPolicy.stallTimeoutSeconds = {limit})"
    )
    return Finding(kind="stalled", reason=Reason.STALLED, message=message, last_step=beat.done)


def silent(view: View) -> Finding | None:
    """The log can be read, and there is no sign of life in it: the program hangs as a whole.

    Where neither the pod's address nor its log answers, nothing is known, and nothing follows from that.
    """
    reading = _reading(view)
    if reading is None or not view.beats or not reading.log_readable or reading.silent < SILENCE:
        return None
    limit = view.case.spec.run_policy.stall_timeout_seconds
    message = f"no sign of life of {view.attempt.child} (runPolicy.stallTimeoutSeconds = {limit})"
    return Finding(kind="silent", reason=Reason.STALLED, message=message, patience=limit)


def crowded_out(view: View) -> Finding | None:
    """All shards that have begun have ended, sidecars hold their places, and the first, which tells the result, has none."""
    first = view.first
    held = [pod for pod in view.pods if pod.succeeded and pod.phase == "Running"]
    working = any(pod.begun and not pod.succeeded for pod in view.pods)
    told = view.child.first_done or view.attempt.exit_code == 0
    if view.gang or not held or working or told or (first is not None and first.begun):
        return None
    limit = view.case.spec.run_policy.stall_timeout_seconds
    why = first.unschedulable if first is not None else "it is not made"
    message = (
        f"the first pod of {view.attempt.child} waits ({why or 'it has not begun'}), and containers that are not ours keep "
        f"the places of those that have ended, such as {held[0].name} (runPolicy.stallTimeoutSeconds = {limit})"
    )
    return Finding(kind="crowded", reason=Reason.STALLED, message=message, patience=limit)


def _reading(view: View) -> Reading | None:
    """What is known of the pod that leads; of a gang while all run: ranks that wait for peers do not stall."""
    pod, reading = view.leading, view.case.reading
    if pod is None or reading is None or reading.pod_uid != pod.uid:
        return None
    return reading if view.all_run or not view.gang else None
