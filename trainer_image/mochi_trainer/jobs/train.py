"""The command train: an adapter (mode lora) or all weights (mode full), in one process for each GPU.

What is applied to the model, and in which order, is in `mochi_trainer.train.composition`; the session resumes it and trains.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean

import torch

from mochi_api.outcomes import TrainingResult
from mochi_api.prediction.flops import useful
from mochi_api.prediction.gpus import GPUS
from mochi_api.prediction.work import work_of_run, works_of_run
from mochi_api.runfile import RunFile
from mochi_trainer import failures
from mochi_trainer.data import Dataset, Split
from mochi_trainer.errors import InvalidInputError, TrainerError
from mochi_trainer.exports import run_exports
from mochi_trainer.exports.card import Artifact
from mochi_trainer.jobs.composing import composed_model, lora_params
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.memory_advice import memory_advised
from mochi_trainer.jobs.parting import parted
from mochi_trainer.jobs.saving import saving
from mochi_trainer.lora import trainable_parameters
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.determinism import determinism
from mochi_trainer.parallel.devices import training_device
from mochi_trainer.parallel.group import Group, joined, peers_limit, time_limit
from mochi_trainer.parallel.ranks import Ranks, ranks_of
from mochi_trainer.parallel.speed import measured, slow_ranks
from mochi_trainer.presets import preset_named
from mochi_trainer.storage import Fence, FencedStore, Store, open_store
from mochi_trainer.train import weights_and_biases
from mochi_trainer.train.checkpoint import Checkpoints
from mochi_trainer.train.evaluation import Case, Evaluation, fixed_batch, held_out
from mochi_trainer.train.feeding import Training
from mochi_trainer.train.gauges import Gauges
from mochi_trainer.train.grace import Grace
from mochi_trainer.train.preemption import Preemption
from mochi_trainer.train.saving import Saving
from mochi_trainer.train.series import Series
from mochi_trainer.train.server import served
from mochi_trainer.train.session import Session
from mochi_trainer.train.shards import most_bytes
from mochi_trainer.train.takeover import Earlier
from mochi_trainer.train.terms import terms_of
from mochi_trainer.watchdog import watched

log = logging.getLogger(__name__)


def execute(run: RunFile) -> Finished:
    """Train from the newest good checkpoint, or from the start, to the last step, and store the result.

    Raises PreemptedError after SIGTERM, when the step at hand is saved, or at once before the first; SupersededError when a
    newer attempt has begun; NonFiniteLossError; CollectiveTimeoutError when
    another rank does not answer; MissingObjectError, InvalidInputError, and what the store raises.
    """
    _check_context(run)
    with ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        stack.enter_context(determinism())
        ranks = ranks_of(os.environ, processes=run.world.processes)
        gauges = Gauges(total_steps=run.training.steps)
        stack.enter_context(PROCESS.described(gauges.signs))
        stack.enter_context(watched(PROCESS))
        stack.enter_context(memory_advised(run))
        if ranks.local == 0:  # a pod has one port
            stack.enter_context(served(gauges, PROCESS, progress=ranks.rank == 0))
        fence = Fence(open_store(run.locations.run, run.s3), run.run.attempt)
        store = FencedStore(open_store(run.locations.run, run.s3), fence)
        PROCESS.doing("loading")
        with preemption.at_once():
            if ranks.rank == 0:
                run_exports.require_room(run)
                fence.claim()
            device = training_device(run, ranks.local)
            group = stack.enter_context(_group(run, ranks, device, preemption))
            PROCESS.doing("loading")
            dataset = stack.enter_context(Dataset.open(run, compared=group.first))
            parts = parted(run, store, dataset.clips, group)
            training = _training(run, dataset, parts, group, device)
            _tell_ideal(run, training, gauges)
            wandb = stack.enter_context(weights_and_biases.told(run, store)) if group.first else None
            series = Series(store, told=wandb, retold=weights_and_biases.offline())
            writer = stack.enter_context(saving(run, training, series, gauges))
        session = _session(run, training, parts, store, writer, series, gauges, preemption)
        with _failures_at_step(session):
            session.run()
            PROCESS.doing("exporting")
            files = run_exports.stored(store, run, session, lora_params(run))
    return _finished(run, session, files)


def _check_context(run: RunFile) -> None:
    """Of a run file by hand: what the API server refuses otherwise."""
    processes, context = max(1, run.world.gpus_per_pod), run.training.context_parallel
    if processes % context:
        raise InvalidInputError(
            f"training.contextParallel must divide the {processes} processes of a pod (world.gpusPerPod), got {context}"
        )


@contextmanager
def _group(run: RunFile, ranks: Ranks, device: torch.device, preemption: Preemption) -> Iterator[Group]:
    if run.mode == "lora" and ranks.world == 1:
        yield Group()
        return
    speed = measured(device)  # before the first wait for another rank
    with joined(
        ranks,
        device,
        limit=time_limit(),
        peers=peers_limit(),
        check=preemption.check,
        movement=PROCESS,
        context=run.training.context_parallel,
    ) as group:
        for line in slow_ranks(group.gathered(speed)):
            log.warning("%s", line)
        yield group


def _training(run: RunFile, dataset: Dataset, parts: Split, group: Group, device: torch.device) -> Training:
    if parts.held_out:
        names = ", ".join(dataset.clips[index] for index in parts.held_out)
        log.info("%d clips are trained on; held out: %s", len(parts.training), names)
        if besides := parts.left_out(len(dataset)):
            log.info(
                "neither trained on nor held out, since they show what a held out clip shows: %s",
                ", ".join(dataset.clips[index] for index in besides),
            )
    composed = composed_model(run, group, device)
    return Training(
        model=composed.model,
        optimizer=composed.optimizer,
        average=composed.average,
        synchronise_once=composed.synchronise_once,
        dataset=dataset,
        clips=parts.training,
        empty=dataset.empty_text(),
        statistics=preset_named(run.model.preset).latents,
        spec=run.training,
        group=group,
        device=device,
    )


def _session(
    run: RunFile,
    training: Training,
    parts: Split,
    store: Store,
    writer: Saving,
    series: Series,
    gauges: Gauges,
    preemption: Preemption,
) -> Session:
    names = training.dataset.clips
    return Session(
        training=training,
        checkpoints=_checkpoints(run, store, training),
        saving=writer,
        fixed=_evaluation(training, fixed_batch(parts.training, seed=run.training.seed)),
        held_out=(lambda levels: _evaluation(training, held_out(parts.held_out, names, levels)))
        if parts.held_out
        else None,
        series=series,
        gauges=gauges,
        preemption=preemption,
        grace=_grace(run, training),
        movement=PROCESS,
        earlier=_earlier(run),
    )


def _checkpoints(run: RunFile, store: Store, training: Training) -> Checkpoints:
    parameters = trainable_parameters(training.model)
    return Checkpoints(store, training.group, parameters, training.optimizer, training.average, terms_of(run))


def _grace(run: RunFile, training: Training) -> Grace:
    grace, group = Grace(seconds=run.world.grace_period_seconds), training.group
    if group.first:
        parameters, averaged = trainable_parameters(training.model), training.average is not None
        grace.expect(most_bytes(parameters, first=True, averaged=averaged))
    return grace


def _evaluation(training: Training, cases: Sequence[Case]) -> Evaluation:
    return Evaluation(
        training.dataset, cases, training.statistics, group=training.group, device=training.device
    )


def _tell_ideal(run: RunFile, training: Training, gauges: Gauges) -> None:
    """Let the metrics have an MFU, where the GPU is one whose speed is known; of several sizes that of the mean clip."""
    device, sizes = training.device, training.dataset.sizes
    name = torch.cuda.get_device_name(device).replace(" ", "-") if device.type == "cuda" else ""
    if name in GPUS:
        ours = {(work.frames, work.width, work.height): useful(work) for work in works_of_run(run)}
        least = fmean(ours[sizes[clip]] for clip in training.clips) if sizes else useful(work_of_run(run))
        gauges.ideal(least / (GPUS[name].teraflops * 1e12))


def _earlier(run: RunFile) -> Earlier | None:
    address = run.training.resume_from
    return Earlier(run, open_store(address, run.s3)) if address else None


@contextmanager
def _failures_at_step(session: Session) -> Iterator[None]:
    """Name the step at which the training failed, and store the series, which the report of a failed run needs."""
    try:
        yield
    except (TrainerError, RuntimeError, MemoryError) as error:
        ours = failures.translated(error)
        ours.step = session.position.step if ours.step is None else ours.step
        session.leave_series()
        if ours is error:
            raise
        raise ours from error


def _of_fixed_batch(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return ""
    return f"; loss of the fixed batch {first:.4g} before, {last:.4g} after"


def _finished(run: RunFile, session: Session, files: Sequence[Artifact]) -> Finished:
    steps = run.training.steps
    if not files:
        return Finished(result=None, message=f"{steps} steps; rank 0 has stored the result")
    artifact, *others = files
    position, best = session.position, session.best
    result = TrainingResult(
        artifactURI=artifact.uri,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        final_step=position.step,
        final_loss=position.loss,
        checkpointURI=session.checkpoint_address,
        best_step=best.step if best is not None else None,
        best_held_out_loss=best.loss if best is not None else None,
        overfits_from_step=session.overfits_from,
    )
    first, last = session.fixed_losses()
    return Finished(
        result=result,
        message=f"{steps} steps" + _of_fixed_batch(first, last),
        details={
            "fixedLossBefore": first,
            "fixedLossAfter": last,
            "resumedFromStep": session.resumed_from,
            "skippedSteps": position.non_finite,
            "trainedParameters": session.trained_parameters,
            "saveSeconds": round(session.saving.seconds, 2),
            "graceWarning": session.grace.warning,
            "ranks": run.world.processes,
            "device": str(session.training.device),
            "otherFiles": [{"uri": file.uri, "sizeBytes": file.size_bytes} for file in others],
        },
    )
