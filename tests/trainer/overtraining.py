"""Trainings that learn their clips by heart, and how good each of their checkpoints really is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import torch

from mochi_api.resolved import LEAST_LEVELS
from mochi_api.runfile import RunFile
from mochi_trainer.data import Dataset
from mochi_trainer.jobs import train
from mochi_trainer.jobs.composing import composed_model
from mochi_trainer.lora import trainable_parameters
from mochi_trainer.parallel.group import Group
from mochi_trainer.presets import preset_named
from mochi_trainer.storage import open_store
from mochi_trainer.train.checkpoint import Checkpoints
from mochi_trainer.train.evaluation import Evaluation, held_out
from tests.trainer.distributed import free_port
from tests.trainer.training_runs import run_file, write_dataset

TRAINED, HELD_OUT, FRESH = 4, 4, 12
EVERY, STEPS = 80, 640
CPU = torch.device("cpu")


class Found(NamedTuple):
    """What a run said, and what is true."""

    best: int
    """Step of the checkpoint that the run calls the best."""
    overfits_from: int | None
    by_clip: dict[int, tuple[float, ...]]
    """Losses of each checkpoint on clips that the run has never seen, not even to evaluate itself."""

    @property
    def losses(self) -> dict[int, float]:
        """Their means."""
        return {step: fmean(losses) for step, losses in self.by_clip.items()}

    @property
    def truth(self) -> int:
        """The step with the lowest of these losses."""
        return min(self.losses, key=lambda step: self.losses[step])

    def above(self, step: int) -> tuple[float, float]:
        """By how much the loss after `step` is above the lowest, and the standard error of that over the clips."""
        pairs = zip(self.by_clip[step], self.by_clip[self.truth], strict=True)
        differences = [ours - lowest for ours, lowest in pairs]
        return fmean(differences), stdev(differences) / len(differences) ** 0.5


def overtrained(root: Path, seed: int, held: int = HELD_OUT) -> Found:
    """Train a nano adapter on a few clips for far too long, with `held` clips held out; every checkpoint is kept."""
    clips = TRAINED + held
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    write_dataset(root, clips=clips, seed=seed, spread=1.0)
    write_dataset(root / "fresh", clips=clips + FRESH, seed=seed, spread=1.0)
    run = run_file(
        root,
        steps=STEPS,
        seed=seed,
        learningRate="0.01",
        schedule="Constant",
        captionDropout="0",
        checkpoint={"everySteps": EVERY, "keepLast": 100},
        validation={"clips": held},
        lora={"rank": 16, "alpha": 16, "targets": ["query", "key", "value", "output", "mlp_in", "mlp_out"]},
    )
    result = train.execute(run).result
    best = getattr(result, "best_step", None)
    assert isinstance(best, int)
    return Found(best, getattr(result, "overfits_from_step", None), _true_losses(root, run, clips))


def _true_losses(root: Path, run: RunFile, clips: int) -> dict[int, tuple[float, ...]]:
    composed = composed_model(run, Group(), CPU)
    store = open_store(run.locations.run, run.s3)
    checkpoints = Checkpoints(store, Group(), trainable_parameters(composed.model), composed.optimizer)
    with Dataset.open(run_file(root / "fresh")) as dataset:
        fresh = [index for index, clip in enumerate(dataset.clips) if int(re.sub(r"\D", "", clip)) >= clips]
        statistics = preset_named("nano").latents
        evaluations = [
            Evaluation(
                dataset,
                held_out([clip], dataset.clips, LEAST_LEVELS),
                statistics,
                group=Group(),
                device=CPU,
            )
            for clip in fresh
        ]
        losses = {}
        for step in sorted(checkpoints.steps()):
            assert checkpoints.load(step)
            losses[step] = tuple(each.losses(composed.model).loss for each in evaluations)
    return losses
