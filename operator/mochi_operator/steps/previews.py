"""Samples during the training: one more step of the engine, beside the sequence and never in its way; pure.

They are made while all training pods have run and the attempt goes on. When it does not, for whatever reason, the pod of
a preview is taken away at once: it must not have the GPU that the training, or its own samples, wait for. A preview takes
the newest checkpoint that is complete when its pod starts, so one that waited for long skips those in between.
"""

from __future__ import annotations

from dataclasses import replace

from mochi_api.runfile import PREVIEW
from mochi_operator import conditions
from mochi_operator.conditions import WAITING
from mochi_operator.plan import Draft
from mochi_operator.policy import ending
from mochi_operator.snapshot import Case
from mochi_operator.state import Attempt, Step
from mochi_operator.steps import engine, kinds

TAKEN_AWAY = "the training does not run: nothing takes its place"
OVERTAKEN = "the training has ended, and the samples of its result follow"


def beside(case: Case, draft: Draft) -> Draft:
    """The draft with what is to be done about samples during the training; what else it holds stays as it is."""
    if draft.state.result == "Failed":
        return draft
    train, step = draft.state.steps["train"], draft.state.steps[PREVIEW]
    draft = _heard_early(case, draft)
    if train.current is None or train.current.ran is None:
        return _withdrawn(case, draft, step, OVERTAKEN if train.over else TAKEN_AWAY)
    # The sequence makes no child while such an attempt runs, so that one at most is made in a pass: of two, the refusal of
    # one would hide what became of the other.
    draft = _answered(case, draft)
    asked, wanted = _asked(case, draft), _wanted(case, draft, step)
    if not wanted:
        return engine.clear_away(case, draft, step) if step.over else draft
    if asked and step.given_up:
        step = replace(step, given_up=False, spent=0, trouble=None)
    found = _pursued(case, draft, step)
    after = found.state.steps[PREVIEW]
    if after.number > step.number or after.given_up:
        found = _noted(case, found)
    return found


def _pursued(case: Case, draft: Draft, step: Step) -> Draft:
    """The engine on this step alone, with the signs of life of its own pod."""
    own = replace(case, reading=case.reading_beside)
    found = engine.pursue(own, replace(draft.with_step(step), settled=False), kinds.PREVIEW, step)
    return replace(found, settled=draft.settled)


def _noted(case: Case, draft: Draft) -> Draft:
    """A preview was begun, or cannot be: what asked for it has been honoured."""
    before = draft.state.previews
    changes = {"step": max(before.step, _latest(draft)), "asked": case.run.sample_now or before.asked}
    return draft.with_state(replace(draft.state, previews=before.model_copy(update=changes)))


def _wanted(case: Case, draft: Draft, step: Step) -> bool:
    """Whether there is something to do: a preview that is under way, or one that is due."""
    unseen = any(child.attempt > step.number for child in case.family.children_of(PREVIEW))
    under_way = step.current is not None or (bool(step.attempts) and not step.over)
    if unseen or under_way:
        return True
    if not 0 < _latest(draft) < case.spec.training.steps:
        return False  # after the last step come the samples of the result
    return _asked(case, draft) or (not step.given_up and _due(case, draft))


def _due(case: Case, draft: Draft) -> bool:
    """Whether there is a checkpoint at or after a multiple of sampling.everySteps of which there was none before."""
    every = case.spec.sampling.every_steps
    return every > 0 and _latest(draft) // every > draft.state.previews.step // every


def _asked(case: Case, draft: Draft) -> bool:
    """Whether the annotation has a value that was not honoured yet."""
    return case.run.sample_now not in ("", draft.state.previews.asked)


def _latest(draft: Draft) -> int:
    """Step of the newest complete checkpoint; 0 before the first."""
    return draft.state.checkpoint.step if draft.state.checkpoint is not None else 0


def _answered(case: Case, draft: Draft) -> Draft:
    """The annotation, where the newest checkpoint has samples already: they are named, and no pod is made."""
    there = next((item for item in draft.state.previews.made if item.step >= _latest(draft)), None)
    if there is None or not _asked(case, draft):
        return draft
    draft = _noted(case, draft)
    text = f"sample-now {case.run.sample_now!r}: the newest checkpoint is that of step {there.step}, whose samples are in {there.uri}"
    return draft.normal("SamplesThere", text)


def _heard_early(case: Case, draft: Draft) -> Draft:
    """The annotation before the first checkpoint, which is waited for: said once."""
    train = draft.state.steps["train"]
    if not _asked(case, draft) or _latest(draft) or train.over:
        return draft
    text = f"sample-now {case.run.sample_now!r} waits for the first checkpoint of the training"
    told = conditions.find(draft.state, "Sampled")
    if told is not None and told.message == text:
        return draft
    return draft.set_condition("Sampled", "False", WAITING, text).normal("SamplesWait", text)


def _withdrawn(case: Case, draft: Draft, step: Step, why: str) -> Draft:
    """No pod of a preview is left. Its end is in the history first, also that of one which no status has known yet."""
    for child in sorted(case.family.children_of(PREVIEW), key=lambda child: child.attempt):
        if child.attempt > step.number:
            step = step.with_new(Attempt(number=child.attempt, child=child.ref.name, started=child.created))
        if step.current is not None and step.number == child.attempt:
            step = ending.taken_away(step, step.current, why, case.now)
        if child.state == "Active" and not child.deleting:
            draft = draft.deleting(child.ref)
    if step.current is not None:
        step = ending.taken_away(step, step.current, why, case.now)
    return draft.with_step(step)
