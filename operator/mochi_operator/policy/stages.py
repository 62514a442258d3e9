"""The Jobs around the training: trim, captions and videos before it, sample after it."""

from __future__ import annotations

from mochi_api.outcomes import Outcome, Reason
from mochi_api.runfile import PREPROCESSING, Stage
from mochi_api.status import Artifacts, FailedItem, StageStatus
from mochi_operator import conditions, names
from mochi_operator.plan import Draft, Start
from mochi_operator.policy import ending, verdicts
from mochi_operator.policy.verdicts import Verdict
from mochi_operator.snapshot import Child, Snapshot
from mochi_operator.timestamps import render

PODS_EXPECTED = 1
GOING_SECONDS = 2.0
WATCH_SECONDS = 10.0


def preprocessing(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: the stages before the training, one after the other."""
    for stage in PREPROCESSING:
        draft = advance(snapshot, draft, stage)
        if draft.settled:
            return _told(snapshot, draft, stage)
    if conditions.holds(draft.status, "Preprocessed"):
        return draft
    status = conditions.put(
        draft.status, "Preprocessed", "True", conditions.COMPLETED, _summary(draft), snapshot.now
    )
    return draft.with_status(conditions=status.conditions)


def sampling(snapshot: Snapshot, draft: Draft) -> Draft:
    """Policy: sample videos and the report, and with them the end."""
    draft = advance(snapshot, draft, "sample")
    return draft if draft.settled else ending.succeeded(snapshot, draft)


def advance(snapshot: Snapshot, draft: Draft, stage: Stage) -> Draft:
    """One stage a step further; settled unless it has succeeded."""
    entry = _entry(draft, stage)
    if entry.state == "Succeeded":
        return draft
    child = snapshot.jobs.get(stage)
    if child is None:
        return _start(snapshot, draft, entry, stage).settle()
    if child.deleting:
        return draft.waking(GOING_SECONDS).settle()
    draft = _adopted(draft, entry, child)
    if child.state == "Succeeded":
        return _finish(snapshot, draft, stage, child)
    verdict = _verdict(snapshot, child)
    if verdict is not None:
        return _fail(snapshot, draft, stage, verdict)
    return draft.waking(WATCH_SECONDS).settle()


def keys(draft: Draft) -> dict[str, str]:
    """Cache keys of the stages that are done."""
    return {item.name: item.cache_key for item in draft.status.stages if item.name in PREPROCESSING}


def _entry(draft: Draft, stage: Stage) -> StageStatus:
    found = next((item for item in draft.status.stages if item.name == stage), None)
    return found or StageStatus(name=stage, state="Pending")


def _put(draft: Draft, entry: StageStatus) -> Draft:
    if all(item.name != entry.name for item in draft.status.stages):
        return draft.with_status(stages=[*draft.status.stages, entry])
    return draft.with_status(
        stages=[entry if item.name == entry.name else item for item in draft.status.stages]
    )


def _start(snapshot: Snapshot, draft: Draft, entry: StageStatus, stage: Stage) -> Draft:
    job = names.stage_job(snapshot.run.name, stage)
    begun = entry.model_copy(update={"state": "Running", "job_name": job, "start_time": render(snapshot.now)})
    draft = _put(draft.starting(Start(stage=stage)), begun)
    if entry.state == "Running":
        return draft.warning(Reason.BACKEND_DELETED, f"{stage}: somebody deleted Job {job}; it is made again")
    return draft.normal("StageStarted", f"{stage}: Job {job} created")


def _adopted(draft: Draft, entry: StageStatus, child: Child) -> Draft:
    """A Job that exists though the status does not say so: the operator was stopped in between."""
    if entry.state == "Running":
        return draft
    update = {"state": "Running", "job_name": child.ref.name, "start_time": render(child.created)}
    begun = entry.model_copy(update=update)
    return _put(draft, begun).normal("StageStarted", f"{entry.name}: Job {child.ref.name} created")


def _finish(snapshot: Snapshot, draft: Draft, stage: Stage, child: Child) -> Draft:
    found = (verdicts.outcome(pod) for pod in snapshot.pods_of(child) if pod.exit_code == 0)
    outcome = next((item for item in found if item is not None), None)
    entry = _entry(draft, stage)
    ended = render(child.finished or snapshot.now)
    if outcome is not None and stage == "sample" and outcome.sample_result is not None:
        return _sampled(draft, entry.model_copy(update={"completion_time": ended}), outcome)
    if outcome is None or outcome.stage_result is None or stage == "sample":
        message = f"Job {child.ref.name} succeeded, but its pod left no readable result"
        return _fail(snapshot, draft, stage, Verdict(reason=Reason.ARTIFACTS_MISSING, message=message))
    return _embedded(draft, entry.model_copy(update={"completion_time": ended}), outcome)


def _embedded(draft: Draft, entry: StageStatus, outcome: Outcome) -> Draft:
    result = outcome.stage_result
    assert result is not None, "the caller looked"
    done = entry.model_copy(
        update={
            "state": "Succeeded",
            "cache_key": result.cache_key,
            "cache_hit": result.cache_hit,
            "items_total": result.items_total,
            "items_done": result.items_done,
            "items_failed": result.items_failed,
            "failures": [FailedItem(clip=item.clip, message=item.message) for item in result.failures],
        }
    )
    how = f"reused from the cache (key {result.cache_key})" if result.cache_hit else "done"
    text = f"{entry.name}: {how}: {result.items_done} of {result.items_total} clips"
    draft = _put(draft, done).normal("StageSucceeded", text)
    if not result.items_failed:
        return draft
    named = "; ".join(f"{item.clip}: {item.message}" for item in result.failures)
    return draft.warning(
        "FailedItems",
        f"{entry.name}: {result.items_failed} of {result.items_total} clips could not be used: {named}"[
            :1000
        ],
    )


def _sampled(draft: Draft, entry: StageStatus, outcome: Outcome) -> Draft:
    result = outcome.sample_result
    assert result is not None, "the caller looked"
    count = len(result.sample_uris)
    done = entry.model_copy(update={"state": "Succeeded", "items_total": count, "items_done": count})
    made = (draft.status.artifacts or Artifacts()).model_copy(
        update={"sample_uris": list(result.sample_uris), "report_uri": result.report_uri}
    )
    draft = _put(draft, done).with_status(artifacts=made)
    return draft.normal(
        "StageSucceeded",
        f"sample: {count} {'video' if count == 1 else 'videos'}; the report is {result.report_uri}",
    )


def _fail(snapshot: Snapshot, draft: Draft, stage: Stage, verdict: Verdict) -> Draft:
    entry = _entry(draft, stage)
    child = snapshot.jobs.get(stage)
    failures = _failures(snapshot, child)
    ended = entry.model_copy(
        update={
            "state": "Failed",
            "message": verdict.message[: conditions.MESSAGE_LIMIT],
            "completion_time": render(snapshot.now),
            "failures": failures,
            "items_failed": max(entry.items_failed, len(failures)),
        }
    )
    message = f"{stage}: {verdict.message}"
    return ending.failed(snapshot, _put(draft, ended), verdict.reason, message)


def _failures(snapshot: Snapshot, child: Child | None) -> list[FailedItem]:
    """The clips a failed stage names."""
    pods = snapshot.pods_of(child) if child is not None else ()
    for pod in sorted(pods, key=lambda pod: pod.created, reverse=True):
        line = verdicts.outcome(pod)
        if line is not None and line.stage_result is not None:
            return [FailedItem(clip=item.clip, message=item.message) for item in line.stage_result.failures]
    return []


def _verdict(snapshot: Snapshot, child: Child) -> Verdict | None:
    pods = snapshot.pods_of(child)
    if child.state == "Failed":
        return _job_verdict(child, verdicts.latest(pods))
    return (
        verdicts.stuck(pods, snapshot.now)
        or verdicts.podless(child, pods, PODS_EXPECTED, snapshot.now)
        or _late(snapshot, child)
    )


def _job_verdict(child: Child, pod: Verdict | None) -> Verdict:
    if child.reason == "DeadlineExceeded":
        return Verdict(reason=Reason.DEADLINE_EXCEEDED, message=f"Job {child.ref.name}: {child.message}")
    return pod or Verdict(reason=Reason.UNKNOWN, message=f"Job {child.ref.name}: {child.message}")


def _late(snapshot: Snapshot, child: Child) -> Verdict | None:
    assert snapshot.spec is not None, "an unreadable spec was dealt with before"
    return verdicts.late(
        snapshot.pods_of(child), snapshot.spec.run_policy.pre_running_deadline_seconds, snapshot.now
    )


def _told(snapshot: Snapshot, draft: Draft, stage: Stage) -> Draft:
    """Preprocessed says which stage is at work, or why it failed."""
    failure = conditions.find(draft.status, "Failed")
    if failure is not None and failure.status == "True":
        reason, message = failure.reason, failure.message
    else:
        child = snapshot.jobs.get(stage)
        hint = verdicts.waiting(child, snapshot.pods_of(child)) if child is not None else ""
        reason, message = conditions.RUNNING, f"{stage}: {hint}" if hint else stage
    status = conditions.put(draft.status, "Preprocessed", "False", reason, message, snapshot.now)
    return draft.with_status(conditions=status.conditions)


def _summary(draft: Draft) -> str:
    reused = [item.name for item in draft.status.stages if item.cache_hit]
    return f"reused from the cache: {', '.join(reused)}" if reused else ""
