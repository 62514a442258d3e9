"""Twenty steps on the CPU in float32 give the losses on file, bit for bit; a change of numerics shows here.

The file names the processor, torch's version and its vector width, with which it was made: there the losses are equal to the
last bit, elsewhere within 1 part in 1000, since matrix products add in another order. To rewrite: UPDATE_GOLDEN=1, then read
the diff. The model is drawn from a seed, so that new weights of nano change nothing.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo.nano.initial import initialise
from mochi_api.spec import TrainingSpec
from mochi_trainer.data import Dataset
from mochi_trainer.lora import LoraParams
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.presets import preset_named
from mochi_trainer.train.composition import Adapters, Choices, Stored, compose
from mochi_trainer.train.evaluation import Evaluation, fixed_batch
from mochi_trainer.train.feeding import Training
from mochi_trainer.train.loop import steps
from mochi_trainer.vae import LatentStatistics
from mochi_trainer.weights import save_weights
from tests.trainer.distributed import run_distributed
from tests.trainer.training_runs import run_file, write_dataset

GOLDEN = Path(__file__).parent / "golden" / "losses.txt"
REWRITE = "UPDATE_GOLDEN"
MACHINE = "machine"
CPU = torch.device("cpu")
ADAPTERS = Adapters(params=LoraParams(rank=4, alpha=4, targets=("query", "value", "output")), seed=5)
SMALL = DiTParams(
    depth=2, visual_width=64, text_width=32, heads=2, text_feature_width=64, pooling_heads=2, timestep_width=32,
    mlp_multiple=32,
)  # fmt: skip
STATISTICS = LatentStatistics(mean=(0.1,) * 12, std=(1.5,) * 12)


def drawn(root: Path) -> Stored:
    """The small model with numbers from a seed, in a file below `root`."""
    folder = root / "small"
    if not folder.exists():
        model = DiT(SMALL)
        initialise(model, seed=5)
        folder.mkdir(parents=True)
        save_weights(model, folder / "dit.safetensors", dtype=torch.float32, metadata={})
    return Stored(replace(preset_named("nano"), dit=SMALL), folder)


def losses(root: Path, mode: str, count: int, group: Group) -> tuple[list[float], float, float]:
    """The loss of every step, and that of the fixed batch before the first and after the last."""
    torch.set_num_threads(1)
    spec = TrainingSpec.model_validate(
        {
            "steps": count,
            "learningRate": "0.003",
            "warmupSteps": 2,
            "globalBatchSize": group.world,
            "captionDropout": "0.2",
        }
    )
    composed = compose(
        drawn(root),
        Choices(compute=torch.float32, attention=Backend.CPU, left_alone=SMALL.depth),
        adapters=ADAPTERS if mode == "lora" else None,
        spec=spec,
        group=group,
        device=CPU,
    )
    with Dataset.open(run_file(root)) as dataset:
        training = Training(
            model=composed.model,
            optimizer=composed.optimizer,
            average=composed.average,
            dataset=dataset,
            clips=range(len(dataset)),
            empty=dataset.empty_text(),
            statistics=STATISTICS,
            spec=spec,
            group=group,
            device=CPU,
        )
        cases = fixed_batch(training.clips, seed=1)
        fixed = Evaluation(dataset, cases, STATISTICS, group=group, device=CPU)
        before = fixed.losses(composed.model).loss
        found = [record.loss for record in steps(training, done=0)]
        return found, before, fixed.losses(composed.model).loss


def full(root: Path, count: int) -> tuple[list[float], float, float]:
    """On as many ranks as there are: one makes a group of its own, as a run does."""
    with joined(ranks_of(os.environ, processes=int(os.environ["WORLD_SIZE"])), CPU, limit=60) as group:
        return losses(root, "full", count, group)


def lora(root: Path, count: int) -> tuple[list[float], float, float]:
    return losses(root, "lora", count, Group())


def found_losses(root: Path) -> dict[str, list[float]]:
    write_dataset(root)
    drawn(root)
    [alone] = run_distributed(full, 1, root, 20)
    one, other = run_distributed(full, 2, root, 20)
    assert one == other
    return {"lora": lora(root, 20)[0], "full": alone[0], "full-on-two-ranks": one[0]}


def machine() -> str:
    """What decides in which order numbers are added."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model")]
    processor = ", ".join(sorted({line.replace("\t", "") for line in models})) or platform.processor()
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {processor}"


def read() -> tuple[str, dict[str, list[float]]]:
    """Where the losses on file were made, and the losses by kind of run."""
    first, *lines = (line.split(maxsplit=1) for line in GOLDEN.read_text().splitlines())
    return first[1], {kind: [float.fromhex(number) for number in rest.split()] for kind, rest in lines}


def write(found: dict[str, list[float]]) -> None:
    lines = [f"{MACHINE} {machine()}"]
    lines += [f"{kind} {' '.join(loss.hex() for loss in values)}" for kind, values in found.items()]
    GOLDEN.write_text("\n".join(lines) + "\n")


def test_twenty_steps_give_the_losses_on_file(tmp_path: Path) -> None:
    found = found_losses(tmp_path)
    if os.environ.get(REWRITE):
        write(found)
    made_on, expected = read()
    if made_on == machine():
        assert found == expected
    else:
        assert found.keys() == expected.keys()
        for kind, values in expected.items():
            assert found[kind] == pytest.approx(values, rel=1e-3), kind


@pytest.mark.parametrize(("train", "share"), [(lora, 0.995), (full, 0.8)])
def test_the_loss_of_the_fixed_batch_falls_in_thirty_steps(
    tmp_path: Path, train: Callable[[Path, int], tuple[list[float], float, float]], share: float
) -> None:
    write_dataset(tmp_path)
    [(_, before, after)] = run_distributed(train, 1, tmp_path, 30)
    assert math.isfinite(after)
    assert after < share * before
