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
from mochi_trainer.data import Dataset, split
from mochi_trainer.jobs import train
from mochi_trainer.jobs.composing import composed_model
from mochi_trainer.lora import trainable_parameters
from mochi_trainer.parallel.group import Group
from mochi_trainer.presets import preset_named
from mochi_trainer.storage import open_store
from mochi_trainer.train.checkpoint import Checkpoints
from mochi_trainer.train.evaluation import Case, Evaluation, held_out
from tests.trainer.distributed import free_port
from tests.trainer.training_runs import run_file, write_dataset

TRAINED, HELD_OUT, FRESH = 4, 4, 12
EVERY, STEPS = 80, 640
MANY_LEVELS = 32
CPU = torch.device("cpu")


class Found(NamedTuple):
    """What a run said, and what is true."""

    best: int
    """Step of the checkpoint that the run calls the best."""
    overfits_from: int | None
    by_clip: dict[int, tuple[float, ...]]
    """Losses of each checkpoint on clips that the run has never seen, not even to evaluate itself."""
    of_held_out: dict[int, float]
    """Loss of each checkpoint on the clips that were held out, with so many other noises that chance in them hardly counts."""

    @property
    def losses(self) -> dict[int, float]:
        """Their means."""
        return {step: fmean(losses) for step, losses in self.by_clip.items()}

    @property
    def truth(self) -> int:
        """The step with the lowest of these losses."""
        return min(self.losses, key=lambda step: self.losses[step])

    @property
    def truth_of_held_out(self) -> int:
        """The step with the lowest loss of the held out clips."""
        return min(self.of_held_out, key=lambda step: self.of_held_out[step])

    def above(self, step: int) -> tuple[float, float]:
        """By how much the loss after `step` is above the lowest, and the standard error of that over the clips."""
        pairs = zip(self.by_clip[step], self.by_clip[self.truth], strict=True)
        differences = [ours - lowest for ours, lowest in pairs]
        return fmean(differences), stdev(differences) / len(differences) ** 0.5


def overtrained(root: Path, seed: int, held: int = HELD_OUT, fresh: int = FRESH) -> Found:
    """Train a nano adapter on a few clips for far too long, with `held` clips held out; every checkpoint is kept. `fresh` clips
    are those that it never sees."""
    clips = TRAINED + held
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    write_dataset(root, clips=clips, seed=seed, spread=1.0)
    write_dataset(root / "fresh", clips=clips + fresh, seed=seed, spread=1.0)
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
    return Found(best, getattr(result, "overfits_from_step", None), *_true_losses(root, run, clips, held))


def _true_losses(
    root: Path, run: RunFile, clips: int, held: int
) -> tuple[dict[int, tuple[float, ...]], dict[int, float]]:
    composed = composed_model(run, Group(), CPU)
    store = open_store(run.locations.run, run.s3)
    checkpoints = Checkpoints(store, Group(), trainable_parameters(composed.model), composed.optimizer)
    by_clip, of_held_out = {}, {}
    with Dataset.open(run_file(root / "fresh")) as fresh, Dataset.open(run) as own:
        new = [index for index, clip in enumerate(fresh.clips) if int(re.sub(r"\D", "", clip)) >= clips]
        evaluations = [_evaluation(fresh, held_out([clip], fresh.clips, LEAST_LEVELS)) for clip in new]
        out = split(own.clips, held).held_out
        cases = [case._replace(seed=case.seed + 1) for case in held_out(out, own.clips, MANY_LEVELS)]
        many = _evaluation(own, cases)
        for step in sorted(checkpoints.steps()):
            assert checkpoints.load(step)
            by_clip[step] = tuple(each.losses(composed.model).loss for each in evaluations)
            of_held_out[step] = many.losses(composed.model).loss
    return by_clip, of_held_out


def _evaluation(dataset: Dataset, cases: list[Case]) -> Evaluation:
    return Evaluation(dataset, cases, preset_named("nano").latents, group=Group(), device=CPU)
