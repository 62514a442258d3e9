"""The manifest of a checkpoint that was altered: what it says cannot be, and the checkpoint is left out."""

from __future__ import annotations

from typing import Any

import pytest

from mochi_trainer.train.checkpoint import described
from mochi_trainer.train.misfits import MisfitError, OtherTrainingError
from mochi_trainer.train.places import Place
from mochi_trainer.train.terms import compare_terms

PLACE = Place(6, 1)
POSITION = {"step": 6, "loss": 1.5, "non_finite": 1, "good": True}
DETAILS = {
    "format": 1,
    "position": POSITION,
    "updates": 5,
    "files": 1,
    "shapes": {"w": [4, 2]},
    "sharded": False,
}

LIES: dict[str, tuple[str, list[Any]]] = {
    "position.step": ("position", [5, 7, 10**9, -1, "6", 6.0, None, True]),
    "position.loss": ("position", ["1.5", [], float("nan"), float("inf")]),
    "position.non_finite": ("position", [-1, 7, "1", 1.0, None]),
    "position.good": ("position", ["no", 1, None]),
    "updates": ("", [-1, 7, 10**30, "5", 5.0, None]),
    "averageUpdates": ("", [-1, 7, "5", True]),
    "files": ("", [0, -1, "1", 1.0, None, []]),
    "sharded": ("", [0, "false", None, []]),
    "shapes": ("", [[], 3, None, {"w": 3}, {"w": ["4"]}, {"w": [-4]}, {"w": [4.0]}]),
    "format": ("", [2, "1", None]),
}


def test_what_was_written_is_read() -> None:
    position, updates, layout = described(DETAILS, PLACE)
    assert (position.step, updates, layout.files, layout.average_updates) == (6, 5, 1, None)
    assert described({**DETAILS, "averageUpdates": 4, "news": 3}, PLACE)[2].average_updates == 4
    assert described({**DETAILS, "position": {**POSITION, "loss": None}}, PLACE)[0].loss is None


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, values) in LIES.items() for value in values]
)
def test_a_manifest_that_says_what_cannot_be_is_not_used(name: str, value: object) -> None:
    section, key = LIES[name][0], name.rpartition(".")[2]
    lie = {key: value}
    details = {**DETAILS, section: {**POSITION, **lie}} if section else {**DETAILS, **lie}
    with pytest.raises(MisfitError):
        described(details, PLACE)


@pytest.mark.parametrize("missing", ["position", "updates", "files", "shapes", "sharded"])
def test_a_manifest_that_lacks_something_is_not_used(missing: str) -> None:
    with pytest.raises(MisfitError, match="its manifest cannot be read: KeyError"):
        described({name: value for name, value in DETAILS.items() if name != missing}, PLACE)


TERMS = {"mode": "lora", "training.lora.rank": 4, "training.lora.alpha": 8.0, "training.lora.rsLora": False}


def test_terms_are_compared_as_far_as_both_know_them() -> None:
    compare_terms(DETAILS, TERMS)
    compare_terms({**DETAILS, "terms": {}}, TERMS)
    compare_terms({**DETAILS, "terms": {**TERMS, "news": [3]}}, TERMS)
    compare_terms({**DETAILS, "terms": TERMS}, {"mode": "lora"})
    with pytest.raises(OtherTrainingError, match=r"^training\.lora\.alpha is 8 here, 0\.5 there$"):
        compare_terms({**DETAILS, "terms": {**TERMS, "training.lora.alpha": 0.5}}, TERMS)


@pytest.mark.parametrize(
    "terms",
    [3, "x", [], None]
    + [{"training.lora.alpha": lie} for lie in ("8", 8, None, [8.0], {})]
    + [{"training.lora.rsLora": lie} for lie in (0, "no", None)]
    + [{"training.lora.rank": lie} for lie in (4.0, True, "4")],
)
def test_terms_that_cannot_be_are_not_used(terms: object) -> None:
    with pytest.raises(MisfitError, match="its manifest cannot be right: terms"):
        compare_terms({**DETAILS, "terms": terms}, TERMS)
