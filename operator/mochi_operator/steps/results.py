"""What a finished step leaves: counts, keys, addresses, into the state and into Events; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from mochi_api.outcomes import Item, Outcome, StageResult
from mochi_api.runfile import Stage
from mochi_api.spec import Mode
from mochi_api.status import Artifacts, Checkpoint, FailedItem, Preview
from mochi_operator.plan import Draft
from mochi_operator.state import Items
from mochi_operator.steps import meter
from mochi_operator.timestamps import render

PREVIEWS_KEPT = 10
PREVIEWED = "Previewed"
"""Samples of the training so far are there; those of its result are not yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What an attempt has left behind."""

    step: Stage
    attempt: int
    mode: Mode
    ended: datetime
    outcome: Outcome


def checked(draft: Draft, left: Left) -> Draft | None:
    """The inputs are there."""
    result = left.outcome.check_result
    if result is None:
        return None
    items = Items(total=result.clips, done=result.clips, message="; ".join(result.warnings))
    draft = _with_items(draft, "check", items)
    found = "; ".join(result.checked) or "the inputs are there"
    draft = draft.set_condition("Checked", "True", "Completed", found).normal(
        "StageSucceeded", f"check: {found}"
    )
    return draft.warning("CheckWarning", f"check: {items.message}") if items.message else draft


def embedded(draft: Draft, left: Left) -> Draft | None:
    """Clips, captions or latents are in the cache."""
    result = left.outcome.stage_result
    if result is None:
        return None
    name = left.step
    draft = _with_items(draft, name, items_of(result))
    how = f"reused from the cache (key {result.cache_key})" if result.cache_hit else "done"
    draft = draft.normal(
        "StageSucceeded", f"{name}: {how}: {result.items_done} of {result.items_total} clips"
    )
    if not result.items_failed:
        return draft
    named = "; ".join(f"{item.clip}: {item.message}" for item in result.failures)
    text = f"{name}: {result.items_failed} of {result.items_total} clips could not be used: {named}"
    return draft.warning("FailedItems", text[:1000])


def trained(draft: Draft, left: Left) -> Draft | None:
    """The adapter, or the tuned weights, are stored."""
    result = left.outcome.training_result
    if result is None or not result.artifact_uri:
        return None
    state = replace(
        draft.state,
        numbers=meter.final(draft.state.numbers, result, left.ended),
        artifacts=replaced(
            draft.state.artifacts,
            lora_uri=result.artifact_uri if left.mode == "lora" else None,
            weights_uri=result.artifact_uri if left.mode == "full" else None,
            sha256=result.sha256,
            size_bytes=result.size_bytes,
        ),
    )
    draft = draft.with_state(state)
    if result.checkpoint_uri:
        latest = Checkpoint(step=result.final_step, uri=result.checkpoint_uri, time=render(left.ended))
        draft = meter.with_checkpoint(draft, latest)
    draft = meter.with_best(draft, result.best_step, result.best_held_out_loss, result.overfits_from_step)
    draft = draft.set_condition("TrainingHealthy", "True", "Completed")
    text = f"attempt {left.attempt}: {result.artifact_uri}"
    return draft.normal("TrainingSucceeded", text)


def sampled(draft: Draft, left: Left) -> Draft | None:
    """Sample videos and the report are stored."""
    result = left.outcome.sample_result
    if result is None:
        return None
    count = len(result.sample_uris)
    artifacts = replaced(
        draft.state.artifacts, sample_uris=list(result.sample_uris), report_uri=result.report_uri
    )
    draft = _with_items(draft, "sample", Items(total=count, done=count))
    draft = draft.with_state(replace(draft.state, artifacts=artifacts))
    text = f"{count} {'video' if count == 1 else 'videos'}; the report is {result.report_uri}"
    draft = draft.set_condition("Sampled", "True", "Completed", text)
    return draft.normal("StageSucceeded", f"sample: {text}")


def previewed(draft: Draft, left: Left) -> Draft | None:
    """Sample videos of a checkpoint are stored; the training goes on."""
    result = left.outcome.sample_result
    if result is None or result.step is None or not result.sample_uris:
        return None
    folder, _, _ = result.sample_uris[0].rpartition("/")
    before = draft.state.previews
    others = [item for item in before.made if item.step != result.step]
    made = [Preview(step=result.step, uri=folder, time=render(left.ended)), *others][:PREVIEWS_KEPT]
    draft = draft.with_state(
        replace(
            draft.state,
            previews=before.model_copy(update={"made": made, "step": max(before.step, result.step)}),
        )
    )
    draft = _with_items(draft, "preview", Items(total=len(result.sample_uris), done=len(result.sample_uris)))
    text = f"samples of step {result.step}: {folder}"
    draft = draft.set_condition("Sampled", "False", PREVIEWED, text)
    return draft.normal("StageSucceeded", f"preview: {text}; the report has them: {result.report_uri}")


def items_of(result: StageResult) -> Items:
    """The counts of a stage."""
    return Items(
        cache_key=result.cache_key,
        cache_hit=result.cache_hit,
        total=result.items_total,
        done=result.items_done,
        failed=result.items_failed,
        failures=tuple(
            FailedItem(clip=item.clip, message=item.message, reason=item.reason) for item in result.failures
        ),
    )


def result_of(items: Items) -> StageResult:
    """The result that `items_of` was given."""
    return StageResult(
        cache_key=items.cache_key,
        cache_hit=items.cache_hit,
        items_total=items.total,
        items_done=items.done,
        items_failed=items.failed,
        failures=[Item(clip=item.clip, message=item.message, reason=item.reason) for item in items.failures],
    )


def replaced(
    artifacts: Artifacts | None,
    *,
    run_uri: str | None = None,
    lora_uri: str | None = None,
    weights_uri: str | None = None,
    sha256: str | None = None,
    size_bytes: int | None = None,
    sample_uris: list[str] | None = None,
    report_uri: str | None = None,
) -> Artifacts:
    """The artifacts with what is given replaced."""
    old = artifacts or Artifacts()
    return Artifacts(
        runURI=old.run_uri if run_uri is None else run_uri,
        loraURI=old.lora_uri if lora_uri is None else lora_uri,
        weightsURI=old.weights_uri if weights_uri is None else weights_uri,
        sha256=old.sha256 if sha256 is None else sha256,
        size_bytes=old.size_bytes if size_bytes is None else size_bytes,
        sampleURIs=old.sample_uris if sample_uris is None else sample_uris,
        reportURI=old.report_uri if report_uri is None else report_uri,
    )


def _with_items(draft: Draft, name: Stage, items: Items) -> Draft:
    return draft.with_step(replace(draft.state.steps[name], items=items))
