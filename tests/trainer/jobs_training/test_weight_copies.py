"""Mode full with a copy of the weights on each half of the ranks: the same training, and states that every layout reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mochi_api.prediction.fitting import SPARE, copies_in_room, least_needed
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.work import Work
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs import train
from mochi_trainer.jobs.weight_copies import weight_copies
from mochi_trainer.lora import trainable_parameters
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import VARIABLE, whole
from mochi_trainer.presets import preset_named
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.train.checkpoint import Checkpoints
from mochi_trainer.train.composition import Choices, Stored, compose
from mochi_trainer.train.shards import OwnFile, own_file
from tests.trainer.distributed import run_distributed
from tests.trainer.training_runs import run_file, write_dataset

CPU = torch.device("cpu")
LOSS = 1e-5
"""Largest relative difference of a loss between one copy and two."""
FULL: dict[str, Any] = {
    "mode": "full",
    "replicas": 4,
    "learningRate": "0.001",
    "globalBatchSize": 4,
    "steps": 3,
}
FULL |= {"checkpoint": {"everySteps": 3, "keepLast": 10}, "gradientClip": "0.01"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the folders of one training on four ranks, `plain` with one copy and `hybrid` with two."""
    folder = tmp_path_factory.mktemp("copies")
    write_dataset(folder)
    run_distributed(train.execute, 4, run_file(folder, name="plain", **FULL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "2")
        run_distributed(train.execute, 4, run_file(folder, name="hybrid", **FULL))
    return folder / "runs"


def series(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_two_copies_train_what_one_trains(root: Path) -> None:
    for name in ("loss", "gradNorm"):
        ours, theirs = series(root / "hybrid", name), series(root / "plain", name)
        assert len(ours) == 3
        assert ours == pytest.approx(theirs, rel=LOSS)
    assert min(series(root / "plain", "gradNorm")) > 0.01  # each step was clipped


def test_each_part_is_stored_once_and_part_0_with_what_is_not_sharded(root: Path) -> None:
    folder = root / "hybrid/checkpoints/step-000003"
    found = {path.name: load_file(path) for path in folder.glob("shard-*")}
    assert sorted(found) == ["shard-00000-of-00002.safetensors", "shard-00001-of-00002.safetensors"]
    assert [any(key.endswith("pos_frequencies") for key in state) for _, state in sorted(found.items())] == [
        True,
        False,
    ]


def loaded(root: Path, copies: int) -> tuple[OwnFile, dict[str, dict[str, Any]]]:
    """This rank's file, and by run the whole weights and moments of its newest checkpoint, as they are once it is loaded."""
    with joined(ranks_of(os.environ, processes=int(os.environ["WORLD_SIZE"])), CPU, limit=60) as group:
        made = compose(
            Stored(preset_named("nano"), None),
            Choices(compute=torch.float32, attention=Backend.CPU, left_alone=0, copies=copies),
            adapters=None,
            spec=run_file(root).training,
            group=group,
            device=CPU,
        )
        parameters = trainable_parameters(made.model)
        found = {}
        for name in ("plain", "hybrid"):
            position = Checkpoints(LocalStore(root / name), group, parameters, made.optimizer).resume()
            assert position is not None
            assert position.step == 3
            found[name] = {
                f"{kind}/{name}": whole(tensor.detach()).numpy().copy()
                for name, parameter in parameters.items()
                for kind, tensor in {"weight": parameter, **made.optimizer.state[parameter]}.items()
            }
        return own_file(parameters, rank=group.rank, world=group.world), found


@pytest.mark.parametrize(("world", "copies"), [(1, 1), (2, 1), (4, 2)])
def test_every_layout_goes_on_from_the_same_bits(root: Path, world: int, copies: int) -> None:
    """What was stored, put together here, is what each layout has after loading it."""
    ranks = run_distributed(loaded, world, root, copies)
    assert [own.index for own, _ in ranks if own.written] == list(range(world // copies)), "each part once"
    for name in ("plain", "hybrid"):
        files = [
            load_file(path) for path in sorted((root / name / "checkpoints/step-000003").glob("shard-*"))
        ]
        stored = {key: torch.cat([file[key] for file in files if key in file]) for key in files[0]}
        for _, found in ranks:
            assert {key for key in found[name] if not key.startswith("step/")} == stored.keys()
            assert all((found[name][key] == tensor.numpy()).all() for key, tensor in stored.items())


FOUR_PODS = Work(mode="full", network=NETWORKS["mochi-1"], frames=37, width=848, height=480, world=16, pods=2)


def test_a_pod_has_a_copy_of_its_own_where_it_has_the_room_and_a_spare_part() -> None:
    need = least_needed(Work(**{**vars(FOUR_PODS), "copies": 2}))
    enough = need * SPARE // (SPARE - 1) + 1
    assert copies_in_room(FOUR_PODS, enough) == 2
    assert copies_in_room(FOUR_PODS, need) == 1


@pytest.mark.parametrize(
    "change",
    [{"pods": 1}, {"pods": 16}, {"mode": "lora"}],
    ids=["one pod", "pods of one GPU", "lora"],
)
def test_elsewhere_the_weights_are_there_once(change: dict[str, Any]) -> None:
    assert copies_in_room(Work(**{**vars(FOUR_PODS), **change}), 1 << 50) == 1


@pytest.mark.parametrize(("text", "copies"), [("", 1), ("1", 1), ("2", 2), ("6", 6)])
def test_the_environment_names_the_copies(text: str, copies: int) -> None:
    run = run_file(Path("/nowhere"), mode="full", replicas=6)
    assert weight_copies(run, Told(world=6), CPU, {VARIABLE: text} if text else {}) == copies


@pytest.mark.parametrize("text", ["0", "4", "-1", "all"])
def test_copies_that_do_not_divide_the_ranks_are_refused(text: str) -> None:
    run = run_file(Path("/nowhere"), mode="full", replicas=6)
    with pytest.raises(
        InvalidInputError, match=f"MOCHI_WEIGHT_COPIES must divide the 6 ranks .*, got '{text}'"
    ):
        weight_copies(run, Told(world=6), CPU, {VARIABLE: text})


class Told(Group):
    """A rank to which the first one says what it would say itself."""

    def from_first(self, value: Any) -> Any:
        return value
