"""A run file is understood by the trainer of another version, and says the same to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mochi_api.runfile import PREPROCESSING, RunFileError, parse
from mochi_trainer.__main__ import run_file
from tests.operator.world import full, lora
from tests.skew.pinned import Checkout
from tests.skew.specs import SPECS
from tests.skew.trees import default_values, known, places

SHARDED = {
    stage: lora(preprocessing={"frames": 7, "width": 64, "height": 64, stage: {"shards": 2}})
    for stage in PREPROCESSING
}
WISHES = {
    "sampling.everySteps": lora(
        training={"steps": 20, "checkpoint": {"everySteps": 5}}, sampling={"everySteps": 10}
    ),
    "training.ema": full(training={"steps": 20, "ema": {"decay": "0.99"}}),
    "preprocessing.buckets": lora(
        preprocessing={
            "frames": 7,
            "width": 64,
            "height": 64,
            "buckets": [{"frames": 1, "width": 64, "height": 64}],
        }
    ),
}
OLD_STEPS = ("trim", "captions", "videos", "train", "sample")
BY_MODE = {"TrainingSpec.learningRate": None}
"""The one default that is another by now: it follows from the mode. An object of before has its value stored, and a run file
without one means the old one (`mochi_api.runfile.LEARNING_RATE_LEFT_OUT`)."""
CASES = [f"{name}/{step}" for name in SPECS for step in OLD_STEPS]


@pytest.fixture(scope="module")
def of_old(old: Checkout) -> dict[str, str]:
    """Run files by the pinned operator."""
    files: dict[str, str] = old.ask("run_files", SPECS)
    return files


@pytest.fixture(scope="module")
def of_new(new: Checkout) -> dict[str, str]:
    """Run files by the operator of this commit."""
    files: dict[str, str] = new.ask("run_files", SPECS)
    return files


@pytest.fixture(scope="module")
def in_old(old: Checkout, of_old: dict[str, str], of_new: dict[str, str]) -> dict[str, Any]:
    """What the pinned trainer makes of the files of both."""
    return {
        "old": old.ask("meanings", of_old),
        "new": old.ask("meanings", {case: of_new[case] for case in CASES}),
    }


@pytest.fixture(scope="module")
def in_new(new: Checkout, of_old: dict[str, str], of_new: dict[str, str]) -> dict[str, Any]:
    """What the trainer of this commit makes of the files of both."""
    return {"old": new.ask("meanings", of_old), "new": new.ask("meanings", of_new)}


@pytest.mark.parametrize("case", CASES)
def test_a_run_file_of_this_operator_means_the_same_to_the_pinned_trainer(
    case: str, in_old: dict[str, Any]
) -> None:
    assert isinstance(in_old["new"][case], dict), in_old["new"][case]
    assert in_old["new"][case] == in_old["old"][case]


@pytest.mark.parametrize("case", CASES)
def test_a_run_file_of_the_pinned_operator_means_the_same_to_this_trainer(
    case: str, in_new: dict[str, Any]
) -> None:
    assert isinstance(in_new["old"][case], dict), in_new["old"][case]
    assert in_new["old"][case] == in_new["new"][case]


@pytest.mark.parametrize("case", CASES)
def test_both_trainers_see_the_same_values(case: str, in_old: dict[str, Any], in_new: dict[str, Any]) -> None:
    assert known(in_new["new"][case], in_old["new"][case]) == in_old["new"][case]


def test_the_rich_spec_leaves_no_field_of_the_run_file_to_a_default(
    of_old: dict[str, str], of_new: dict[str, str]
) -> None:
    case = "lora-rich/train"
    told = places(yaml.safe_load(of_old[case])) - {
        ".run.attempt",
        ".world.replicas",
        ".world.gpusPerPod",
        ".world",
    }
    assert told <= places(yaml.safe_load(of_new[case]))


@pytest.fixture(scope="module")
def specs(old: Checkout, new: Checkout) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both versions know of a spec: the pinned one first."""
    return old.ask("defaults", list(SPECS.values())), new.ask("defaults", list(SPECS.values()))


def test_no_default_of_the_spec_has_changed(specs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, now = (default_values(side["schema"]) for side in specs)
    assert before, "the pinned spec has defaults"
    assert {field: now.get(field, "gone") for field in before} == {**before, **BY_MODE}


def test_what_a_spec_leaves_out_is_filled_in_as_before(specs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, now = (side["filled"] for side in specs)
    for filled in before:
        assert filled["training"]["learningRate"] is not None
    for filled, spec in zip(now, SPECS.values(), strict=True):
        if "learningRate" not in spec.get("training", {}):
            assert filled["training"]["learningRate"] is None
            filled["training"]["learningRate"] = "0.0002"
    assert [known(spec, same) for spec, same in zip(now, before, strict=True)] == before


def test_a_field_that_the_image_does_not_know_is_one_clear_refusal(of_new: dict[str, str]) -> None:
    document = yaml.safe_load(of_new["lora-nano/train"])
    document["training"]["distillation"] = "0.5"
    with pytest.raises(RunFileError) as refusal:
        parse(yaml.safe_dump(document), strict=False)
    said = str(refusal.value)
    assert "spec.training.distillation" in said
    assert "workers.image" in said
    assert said.count("distillation") == 1


def test_a_field_of_the_surroundings_that_the_image_does_not_know_is_ignored(of_new: dict[str, str]) -> None:
    document = yaml.safe_load(of_new["lora-nano/train"])
    plain = parse(yaml.safe_dump(document), strict=False)
    document["world"] = {**document.get("world", {}), "racks": 2}
    document["queue"] = "batch"
    assert parse(yaml.safe_dump(document), strict=False) == plain


@pytest.mark.parametrize(("operator", "held_out"), [("old", 0), ("new", None)])
def test_a_run_keeps_what_the_operator_that_wrote_it_knew_of_clips_held_out(
    operator: str, held_out: int | None, old: Checkout, new: Checkout, tmp_path: Path
) -> None:
    """None, of an operator that did not know that some are; where it did, what is left out is the usual number."""
    side = {"old": old, "new": new}[operator]
    files = side.ask("mounted_files", {"lora-nano": SPECS["lora-nano"]})["lora-nano/train"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    run = tmp_path / "run.yaml"
    assert run_file(run, "train", mounted=run).training.validation.clips == held_out
    assert run_file(run, "train").training.validation.clips is None, "by hand it means what this version says"


def test_a_number_of_clips_held_out_is_kept_whatever_the_operator_knew(of_new: dict[str, str]) -> None:
    document = yaml.safe_load(of_new["lora-nano/train"])
    document["training"]["validation"] = {"clips": 3}
    assert parse(yaml.safe_dump(document), strict=False, defaults=0).training.validation.clips == 3


@pytest.fixture(scope="module")
def sharded(old: Checkout, new: Checkout) -> dict[str, Any]:
    """What the pinned trainer makes of run files whose stages have several pods."""
    meanings: dict[str, Any] = old.ask("meanings", new.ask("run_files", SHARDED))
    return meanings


@pytest.mark.parametrize("stage", PREPROCESSING)
def test_an_image_that_knows_no_shards_refuses_them_in_every_step(
    stage: str, sharded: dict[str, Any]
) -> None:
    """Each of its pods would make everything, and write the list of all."""
    place = "preprocessing.trim" if stage == "trim" else f"preprocessing.{stage}.shards"
    for step in OLD_STEPS:
        said = sharded[f"{stage}/{step}"]
        assert isinstance(said, str), said
        assert place in said


@pytest.fixture(scope="module")
def wished(old: Checkout, new: Checkout) -> dict[str, Any]:
    """What the pinned trainer makes of run files with what came after it."""
    meanings: dict[str, Any] = old.ask("meanings", new.ask("run_files", WISHES))
    return meanings


@pytest.mark.parametrize("field", WISHES)
def test_an_image_that_does_not_know_a_wish_refuses_it_in_every_step(
    field: str, wished: dict[str, Any]
) -> None:
    for step in OLD_STEPS:
        said = wished[f"{field}/{step}"]
        assert isinstance(said, str), said
        assert field in said
