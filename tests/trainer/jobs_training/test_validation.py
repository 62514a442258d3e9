"""Clips that are held out: never trained on, and evaluating them changes nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mochi_trainer.data import split
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs import train
from tests.trainer.distributed import free_port, run_distributed
from tests.trainer.training_runs import KEY, LATENT_SHAPE, run_file, write_dataset

OPTIONS: dict[str, Any] = {"steps": 4, "checkpoint": {"everySteps": 4}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    write_dataset(folder, clips=6)
    return folder


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def held_out_losses(root: Path, name: str) -> dict[int, float]:
    return {line["step"]: line["heldOutLoss"] for line in lines(root, name) if "heldOutLoss" in line}


def weights(root: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(root / "runs" / name / "artifacts" / "lora.safetensors")


def run(root: Path, name: str, **validation: int) -> None:
    train.execute(run_file(root, name=name, **OPTIONS, validation=validation))


def test_evaluating_more_often_changes_no_bit_of_what_is_trained(root: Path) -> None:
    run(root, "seldom", clips=2)
    run(root, "often", clips=2, everySteps=1)
    seldom, often = weights(root, "seldom"), weights(root, "often")
    assert all(torch.equal(seldom[name], often[name]) for name in seldom)
    assert [line.get("loss") for line in lines(root, "seldom")] == [
        line.get("loss") for line in lines(root, "often")
    ]
    found = held_out_losses(root, "often")
    assert list(found) == [0, 1, 2, 3, 4]
    assert held_out_losses(root, "seldom") == {0: found[0], 4: found[4]}


def test_a_held_out_clip_whose_loss_is_not_finite_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path, clips=6, others={"clip-3": {"mean": torch.full(LATENT_SHAPE, float("nan"))}})
    clips = [f"clip-{index}" for index in range(6)]
    asked = next(count for count in range(1, 6) if 3 in split(clips, count).held_out)
    run(tmp_path, "unsound", clips=asked)
    assert "loss of the clip clip-3 is not finite at" in caplog.text
    assert [line["heldOutLoss"] for line in lines(tmp_path, "unsound") if "heldOutLoss" in line] == [
        None,
        None,
    ]


def test_a_held_out_clip_does_not_touch_the_training(root: Path, tmp_path: Path) -> None:
    """With other numbers in it, all but its own loss is the same."""
    for folder in (root, tmp_path):
        if folder is tmp_path:
            write_dataset(tmp_path, clips=6)
            _other_numbers(tmp_path, "clip-3")  # the one whose name's hash comes first
        run(folder, "one-out", clips=1)
    ours, theirs = weights(root, "one-out"), weights(tmp_path, "one-out")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert held_out_losses(root, "one-out")[0] != held_out_losses(tmp_path, "one-out")[0]


def test_two_ranks_find_the_loss_that_one_finds(root: Path) -> None:
    full = {"mode": "full", "globalBatchSize": 2, "learningRate": "0.001", "validation": {"clips": 2}}
    for ranks in (1, 2):
        name = f"full-{ranks}"
        run_distributed(train.execute, ranks, run_file(root, name=name, replicas=ranks, **OPTIONS, **full))
    one, two = held_out_losses(root, "full-1"), held_out_losses(root, "full-2")
    assert two == pytest.approx(one, rel=1e-5)


def test_noise_levels_have_losses_of_their_own_and_the_mean_is_the_loss(root: Path) -> None:
    run(root, "levels", clips=2)
    [last] = [line for line in lines(root, "levels") if line["step"] == 4]
    assert sum(last["heldOutBySigma"]) / 4 == pytest.approx(last["heldOutLoss"])
    for line in lines(root, "levels")[1:]:
        found = [loss for loss in line["lossBySigma"] if loss is not None]
        assert len(line["lossBySigma"]) == 4
        assert min(found) <= line["loss"] <= max(found)


@pytest.mark.parametrize(("clips", "began"), [(2, 4), (2, None), (1, 8)], ids=str)
def test_a_run_goes_on_with_as_many_noise_levels_as_it_began_with(
    root: Path, clips: int, began: int | None
) -> None:
    """`began` is what its first lines tell; those of an earlier version tell nothing, and had four."""
    name = f"begun-{clips}-{began}"
    run(root, name, clips=clips)
    first, usual = lines(root, name), {1: 32, 2: 16}[clips]
    assert [line["heldOutLevels"] for line in first if "heldOutLoss" in line] == [usual, usual]
    for line in first:
        line.pop("heldOutLevels", None)
        if began is not None and "heldOutLoss" in line:
            line["heldOutLevels"] = began
    series = root / "runs" / name / "metrics.jsonl"
    series.write_text("".join(json.dumps(line) + "\n" for line in first))
    train.execute(
        run_file(root, name=name, steps=8, checkpoint={"everySteps": 4}, validation={"clips": clips})
    )
    [last] = [line for line in lines(root, name) if line["step"] == 8]
    assert last["heldOutLevels"] == (began or 4)


def test_to_hold_all_clips_out_is_refused(root: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"training\.validation\.clips must be less than the 6 clips .* got 6"
    ):
        run(root, "none-left", clips=6)


def _other_numbers(root: Path, clip: str) -> None:
    """Latents of another draw under the same name, in the list as well."""
    folder = root / "cache" / "videos" / KEY
    write_dataset(root / "other", clips=6, seed=2)
    other = root / "other" / "cache" / "videos" / KEY
    (folder / f"{clip}.safetensors").write_bytes((other / f"{clip}.safetensors").read_bytes())
    manifest, others = (json.loads((each / "manifest.json").read_text()) for each in (folder, other))
    by_name = {entry["name"]: entry for entry in others["entries"]}
    manifest["entries"] = [
        by_name[entry["name"]] if entry["name"] == f"{clip}.safetensors" else entry
        for entry in manifest["entries"]
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
