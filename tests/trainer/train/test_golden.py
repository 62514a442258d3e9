"""Twenty steps on the CPU in float32 give the losses on file; a change of numerics shows here.

The tolerance, 1 part in 1000, covers other CPUs and libraries. To rewrite: UPDATE_GOLDEN=1, then read the diff.
The model is drawn from a seed, so that new weights of nano change nothing.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch

from demo.nano.initial import initialise
from mochi_api.spec import TrainingSpec
from mochi_trainer.data import Dataset
from mochi_trainer.lora import LoraParams, attach, trainable_parameters
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.parallel.group import Group
from mochi_trainer.train.fixed import FixedBatch
from mochi_trainer.train.loop import Training, steps
from mochi_trainer.train.optimizer import adamw
from mochi_trainer.vae import LatentStatistics
from tests.trainer.training_runs import run_file, write_dataset

GOLDEN = Path(__file__).parent / "golden" / "losses.txt"
REWRITE = "UPDATE_GOLDEN"
SMALL = DiTParams(
    depth=2, visual_width=64, text_width=32, heads=2, text_feature_width=64, pooling_heads=2, timestep_width=32,
    mlp_multiple=32,
)  # fmt: skip
STATISTICS = LatentStatistics(mean=(0.1,) * 12, std=(1.5,) * 12)


def losses(root: Path, mode: str, count: int) -> tuple[list[float], float, float]:
    torch.set_num_threads(1)
    write_dataset(root)
    spec = TrainingSpec.model_validate(
        {
            "steps": count,
            "learningRate": "0.003",
            "warmupSteps": 2,
            "globalBatchSize": 1,
            "captionDropout": "0.2",
        }
    )
    model = DiT(SMALL)
    initialise(model, seed=5)
    if mode == "lora":
        attach(model, LoraParams(rank=4, alpha=4, targets=("query", "value", "output")), seed=5)
    with Dataset.open(run_file(root)) as dataset:
        training = Training(
            model=model,
            optimizer=adamw(trainable_parameters(model), spec),
            dataset=dataset,
            empty=dataset.empty_text(),
            statistics=STATISTICS,
            spec=spec,
            group=Group(),
            device=torch.device("cpu"),
        )
        fixed = FixedBatch(dataset, STATISTICS, seed=1, group=Group(), device=torch.device("cpu"))
        before = fixed.loss(model)
        found = [record.loss for record in steps(training, done=0)]
        return found, before, fixed.loss(model)


def read() -> dict[str, list[float]]:
    lines = (line.split() for line in GOLDEN.read_text().splitlines())
    return {mode: [float(number) for number in numbers] for mode, *numbers in lines}


def test_twenty_steps_give_the_losses_on_file(tmp_path: Path) -> None:
    found = {mode: losses(tmp_path / mode, mode, 20)[0] for mode in ("lora", "full")}
    if os.environ.get(REWRITE):
        text = "".join(
            f"{mode} {' '.join(f'{loss:.6f}' for loss in values)}\n" for mode, values in found.items()
        )
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    for mode, values in read().items():
        assert found[mode] == pytest.approx(values, rel=1e-3), mode


@pytest.mark.parametrize(("mode", "share"), [("lora", 0.995), ("full", 0.8)])
def test_the_loss_of_the_fixed_batch_falls_in_thirty_steps(tmp_path: Path, mode: str, share: float) -> None:
    _, before, after = losses(tmp_path, mode, 30)
    assert math.isfinite(after)
    assert after < share * before
