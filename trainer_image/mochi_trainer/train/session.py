"""One training from resume to the last step: what is saved, shown and measured around each step, and when it stops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from mochi_trainer.errors import (
    REFUSALS,
    AccessDeniedError,
    InvalidInputError,
    NonFiniteLossError,
    PreemptedError,
    StorageError,
    SupersededError,
    TrainerError,
)
from mochi_trainer.logs import LINE_SECONDS
from mochi_trainer.movement import Movement
from mochi_trainer.train.best import Best, best, overfits_from
from mochi_trainer.train.checkpoint import Checkpoints, Position
from mochi_trainer.train.errand import Errand
from mochi_trainer.train.evaluation import Evaluation, Losses
from mochi_trainer.train.feeding import Training
from mochi_trainer.train.gauges import Gauges
from mochi_trainer.train.grace import Grace
from mochi_trainer.train.loop import steps
from mochi_trainer.train.preemption import Preemption
from mochi_trainer.train.saving import Saving
from mochi_trainer.train.series import Series
from mochi_trainer.train.step import StepRecord
from mochi_trainer.train.takeover import Earlier

log = logging.getLogger(__name__)


class _NoLongerError(Exception):
    """Clips are no longer waited for."""


@dataclass(kw_only=True, slots=True)
class Session:
    """Runs the loop; `position` is where it stands."""

    training: Training
    checkpoints: Checkpoints
    saving: Saving
    fixed: Evaluation
    held_out: Callable[[int | None], Evaluation] | None
    """Of the clips that are held out, if any are, at so many noise levels each, or as many as is usual."""
    series: Series
    gauges: Gauges
    preemption: Preemption
    grace: Grace
    movement: Movement
    earlier: Earlier | None = None
    """Another run, which training goes on from when this one has no checkpoint yet."""
    position: Position = field(default_factory=lambda: Position(step=0, loss=None))
    resumed_from: int = 0
    best: Best | None = None
    """The complete checkpoint with the lowest loss of the held out clips, as far as there are any."""
    overfits_from: int | None = None
    _held_out: Evaluation | None = field(default=None, init=False)
    _complete: set[int] = field(default_factory=set, init=False)
    """Steps of the complete checkpoints that were not lost."""
    _held_step: int = field(default=0, init=False)
    """Step of the newest state that is saved or being saved."""
    _upload: Errand[None] | None = field(default=None, init=False)
    """Of the series."""
    _next_line: float = field(default=0.0, init=False)

    @property
    def trained_parameters(self) -> int:
        """Numbers that training changes, over all ranks."""
        return sum(p.numel() for p in self.training.model.parameters() if p.requires_grad)

    def run(self) -> None:
        """Train to the last step; it is saved in the end. Raises PreemptedError once the step at hand is saved."""
        with self.preemption.at_once():
            self._resume()
        if (
            self.held_out is not None
        ):  # as this run began, or the one that it goes on from: else no two losses compare
            self._held_out = self.held_out(self.series.held_out_levels)
        self._stop_if_asked()
        self.movement.doing("training")
        with self._until_no_longer():
            if self.position.step == 0:
                with self.preemption.at_once():  # the first clips are read here, and there is nothing to save
                    self._evaluate(0)
            elif self._evaluation_is_missing():
                self._evaluate(self.position.step)
            with self._what_is_under_way_is_saved():
                self._train()

    @contextmanager
    def _until_no_longer(self) -> Iterator[None]:
        """The training as it stands is saved when SIGTERM comes to any rank while any waits for clips that do not come."""
        try:
            yield
        except _NoLongerError:
            self._stop_if_asked()

    def _evaluation_is_missing(self) -> bool:
        """Whether the attempt before was stopped in the evaluation of the step that training goes on from."""
        due = self.position.step % self.training.spec.checkpoint.every_steps == 0
        return due and self.position.good and self.position.step not in self.series.fixed_losses

    def _train(self) -> None:
        spec, group = self.training.spec, self.training.group
        for record in steps(self.training, done=self.position.step, agreed=self._all_have):
            self._note(record)
            last = record.step == spec.steps
            overdue = record.step - self._held_step >= spec.checkpoint.every_steps
            if last or (record.finite and (overdue or record.step % spec.checkpoint.every_steps == 0)):
                self._evaluate(record.step)
                self._save(wait=last)
            else:
                if record.finite and self._validates(record.step):
                    self._validate(record.step)
                if self.saving.advance():
                    self._settle()
            self._stop_if_asked()
            if group.first:
                self._upload_series()

    def _all_have(self, ready: bool) -> bool:
        """Whether all ranks have their next clip. Raises _NoLongerError, on all of them, when one has not and is not to wait."""
        absent, asked = self.training.group.total([float(not ready), float(self.preemption.requested)])
        if absent and asked:
            raise _NoLongerError
        return not absent

    @property
    def checkpoint_address(self) -> str:
        """That of the newest complete checkpoint, saved or gone on from; empty without one."""
        return self.saving.address or self.checkpoints.address

    def fixed_losses(self) -> tuple[float | None, float | None]:
        """The fixed batch's loss before the first step and after the last one; None where it is not known."""
        losses = self.series.fixed_losses
        return losses.get(0), losses.get(self.position.step)

    def leave_series(self) -> None:
        """Store the series although the training has failed; not being able to is only logged."""
        if not (self.training.group.first and self.series.changed):
            return
        try:
            self.series.upload(self.saving.store)
        except (StorageError, AccessDeniedError, SupersededError) as error:
            log.warning("metrics.jsonl is not up to date: %s", error)

    def _resume(self) -> None:
        position, origin = self.checkpoints.resume(), None
        if position is None and self.earlier is not None:
            self.earlier.check()
            position, origin = self.checkpoints.take_over(self.earlier.store), self.earlier.store
        if position is None:
            log.info("no checkpoint: training starts at step 1 of %d", self.training.spec.steps)
            return
        if position.step > (steps := self.training.spec.steps):
            raise InvalidInputError(
                f"training.steps must be at least the {position.step} that {self.checkpoints.address} has, got {steps}",
                action="raise training.steps, or train to fewer steps in another folder (locations.run)",
            )
        self.position, self.resumed_from, self._held_step = position, position.step, position.step
        self.series.resume(position.step, origin)
        self._complete = self.checkpoints.steps() & set(self.series.saved)
        self._judge()
        self.gauges.resumed(position.step, position.non_finite, self.series.losses)
        log.info("resumed after step %d of %d", position.step, self.training.spec.steps)
        if origin is not None:
            log.info("that step is of the run in %s", origin.address())

    def _note(self, record: StepRecord) -> None:
        before = self.position
        self.position = Position(
            step=record.step,
            loss=record.loss if record.finite else before.loss,
            non_finite=before.non_finite + (not record.finite),
            good=record.finite,
        )
        self.series.add(record)
        self.gauges.stepped(record, non_finite=self.position.non_finite)
        self.movement.moved()
        if not record.finite:
            log.warning(
                "step %d skipped: loss %s, gradient norm %s; %s",
                record.step,
                record.loss,
                record.gradient_norm,
                record.cause,
            )
        elif record.step == self.training.spec.steps or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            log.info(
                "step %d of %d: loss %.5f, gradient norm %.4f, learning rate %.3g, %.3f s",
                record.step,
                self.training.spec.steps,
                record.loss,
                record.gradient_norm,
                record.learning_rate,
                record.seconds,
            )

    def _evaluate(self, step: int) -> None:
        loss = self._losses(self.fixed).loss
        self.series.add_fixed_loss(step, loss)
        log.info("loss of the fixed batch after step %d: %.5f", step, loss)
        if self._held_out is not None:
            self._validate(step)

    def _validates(self, step: int) -> bool:
        """Whether the clips that are held out are evaluated after this step, which has no checkpoint."""
        every = self.training.spec.validation.every_steps
        return self._held_out is not None and every is not None and step % every == 0

    def _validate(self, step: int) -> None:
        assert self._held_out is not None
        losses = self._losses(self._held_out)
        self.series.add_held_out(step, losses)
        self.gauges.validated(losses)
        log.info("loss of the clips that are held out after step %d: %.5f", step, losses.loss)

    def _losses(self, evaluation: Evaluation) -> Losses:
        """Of the average, where there is one: it is what the run leaves."""
        with self.training.averaged():
            return evaluation.losses(self.training.model, self._all_have)

    def _save(self, *, wait: bool) -> None:
        """Begin to save the state as it is now, and wait until it is saved, if asked to."""
        self.movement.doing("saving")
        self.saving.make_room()
        self._settle()
        self.series.add_checkpoint(self.position.step)
        self.saving.begin(self.position)
        self._held_step = self.position.step
        if wait:
            self.saving.finish()
            self._settle()
        self.movement.doing("training")

    def _settle(self) -> None:
        """Take notice of the newest complete checkpoint: it may be the best, and the grace period too short for it."""
        if self.saving.step:
            self._complete.add(self.saving.step)
        self._judge()
        if self.training.group.first and self.saving.seconds:
            step = self.gauges.progress().step_seconds or 0.0
            self.grace.measured(step=step, save=self.saving.seconds)

    def _judge(self) -> None:
        """Find the best of the complete checkpoints, and keep it."""
        losses = self.series.held_out_losses
        self.best, before = best(losses, self._complete), self.overfits_from
        self.overfits_from = overfits_from(losses)
        self.saving.spare(None if self.best is None else self.best.step)
        self.gauges.judged(self.best, self.overfits_from)
        if self.overfits_from not in (None, before):
            log.warning("training overfits from step %d on", self.overfits_from)

    @contextmanager
    def _what_is_under_way_is_saved(self) -> Iterator[None]:
        """When training fails, too, if all ranks come here: a copy in host memory outlives a GPU.

        What ends it may be a refusal: then whoever refuses the checkpoint as well is not waited for.
        """
        try:
            yield
        except (TrainerError, RuntimeError, MemoryError) as error:
            if isinstance(error, NonFiniteLossError) or self.training.group.world == 1:
                with suppress(TrainerError):
                    self.saving.finish(refused_seconds=0 if isinstance(error, REFUSALS) else None)
            raise

    def _upload_series(self) -> None:
        """In a thread, when it is due: a store that is away does not hold up the training."""
        if self.series.due and (self._upload is None or self._upload.done):
            self._upload = Errand(lambda _: self.series.upload_if_due(self.saving.store), name="series")

    def _stop_if_asked(self) -> None:
        """All ranks stop after the same step when any of them got SIGTERM; a run that is complete goes on to its end."""
        step = self.position.step
        if not self.training.group.any(self.preemption.requested) or step == self.training.spec.steps:
            return
        self.movement.doing("saving")
        self.saving.finish()
        late = not self.grace.allows(self.saving.seconds, since=self.preemption.since)
        if step > self._held_step and self.position.good and not self.training.group.any(late):
            self._save(wait=True)
        raise PreemptedError(
            f"stopped by {self.preemption.name} after step {step}, saved at step {self._held_step}", step=step
        )
