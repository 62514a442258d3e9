"""The moving average of the weights equals a literal loop in float64, on one rank and on three, and is in the model only where asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mochi_api.spec import TrainingSpec
from mochi_trainer.data import Dataset
from mochi_trainer.lora import trainable_parameters
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.group import joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import own_part
from mochi_trainer.presets import preset_named
from mochi_trainer.train.average import Average
from mochi_trainer.train.composition import Choices, Stored, compose
from mochi_trainer.train.feeding import Training
from mochi_trainer.train.loop import steps
from mochi_trainer.train.shards import AVERAGE, own_state
from tests.trainer.distributed import run_distributed
from tests.trainer.training_runs import run_file, write_dataset

CPU = torch.device("cpu")
NANO = preset_named("nano")
STEPS, DECAY = 8, 0.6
"""With this decay six steps are of the warm-up and two are not."""


def trained(root: Path, spoilt: int) -> list[dict[str, Any]]:
    """This rank's weights before the first step and after each, then the average's; step `spoilt` is not finite."""
    with joined(ranks_of(os.environ, processes=int(os.environ["WORLD_SIZE"])), CPU, limit=60) as group:
        spec = TrainingSpec.model_validate(
            {
                "steps": STEPS,
                "learningRate": "0.003",
                "warmupSteps": 1,
                "globalBatchSize": group.world,
                "ema": {"decay": str(DECAY)},
            }
        )
        composed = compose(
            Stored(NANO, None),
            Choices(compute=torch.float32, attention=Backend.CPU, left_alone=NANO.dit.depth),
            adapters=None,
            spec=spec,
            group=group,
            device=CPU,
        )
        model = composed.model

        def numbers() -> dict[str, Any]:
            return {name: own_part(p.detach()).numpy().copy() for name, p in model.named_parameters()}

        found = [numbers()]
        with Dataset.open(run_file(root)) as dataset:
            training = Training(
                model=model,
                optimizer=composed.optimizer,
                average=composed.average,
                dataset=dataset,
                clips=range(len(dataset)),
                empty=dataset.empty_text(),
                statistics=NANO.latents,
                spec=spec,
                group=group,
                device=CPU,
            )
            for record in steps(training, done=0):
                assert record.finite == (record.step != spoilt)
                if record.finite:
                    found.append(numbers())
                spoil = record.step + 1 == spoilt
                _break(model.x_embedder.proj, spoil)
        with training.averaged():
            averaged = numbers()
        assert all((numbers()[name] == last).all() for name, last in found[-1].items())
        return [*found, averaged]


def _break(layer: nn.Module, wanted: bool) -> None:
    """Let the next step's output be no number, or no longer."""
    for hook in list(layer._forward_hooks):
        del layer._forward_hooks[hook]
    if wanted:
        layer.register_forward_hook(lambda _, __, output: output * float("nan"))


def looped(weights: list[dict[str, Any]], name: str) -> Any:
    """The definition, in float64."""
    average = weights[0][name].astype(np.float64)
    for n, later in enumerate(weights[1:], 1):
        decay = min(DECAY, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * later[name].astype(np.float64)
    return average


@pytest.mark.parametrize(("world", "spoilt"), [(1, 0), (3, 3)])
def test_the_average_is_that_of_a_loop_in_float64(tmp_path: Path, world: int, spoilt: int) -> None:
    """A step that is skipped changes no weight, and counts for nothing in the average. Three ranks have unequal parts."""
    write_dataset(tmp_path)
    moved = 0
    for *weights, averaged in run_distributed(trained, world, tmp_path, spoilt):
        assert len(weights) == 1 + STEPS - bool(spoilt)
        for name, ours in averaged.items():
            exact = looped(weights, name)
            assert np.abs(ours - exact).max(initial=0) <= 1e-6 * np.abs(exact).max(initial=1), name
            moved += bool(np.abs(ours - weights[-1][name]).max(initial=0) > 1e-5)
    assert moved > world * len(averaged) / 2


def test_the_decay_rises_to_what_is_asked_for_and_stays() -> None:
    weight = nn.Parameter(torch.zeros(()))
    average = Average({"w": weight}, 0.75)
    left = 1.0  # of the first weight, which is one above the others
    average.put({"w": torch.ones(())}, 0)
    for n in range(1, 40):
        average.update()
        left *= min(0.75, (1 + n) / (10 + n))
        assert float(average.tensors()["w"]) == pytest.approx(left, rel=1e-5)


def test_a_failure_while_the_average_is_in_place_puts_the_weights_back() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = Average({"w": weight}, 0.5)
    average.put({"w": torch.tensor([5.0, 6.0])}, 3)
    seen = []

    def evaluated() -> None:
        with average.in_place():
            seen.append(weight.tolist())
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluated()
    assert seen == [[5.0, 6.0]]
    assert (weight.tolist(), average.tensors()["w"].tolist()) == ([1.0, 2.0], [5.0, 6.0])


def test_no_second_copy_of_all_weights_is_made_for_it() -> None:
    parameters = {str(i): nn.Parameter(torch.full((4,), float(i))) for i in range(3)}
    average = Average(parameters, 0.5)
    places = [tensor.data_ptr() for tensor in average.tensors().values()]
    average.update()
    with average.in_place():
        pass
    assert [tensor.data_ptr() for tensor in average.tensors().values()] == places
    state = own_state(parameters, torch.optim.AdamW(parameters.values()), average, first=True)
    assert [state[f"{AVERAGE}/{i}"].data_ptr() for i in range(3)] == places
    assert trainable_parameters(nn.ParameterDict(parameters)).keys() == parameters.keys()
