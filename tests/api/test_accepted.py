"""What was accepted once is read whatever the rules of today say of its values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mochi_api.accepted import accepted
from mochi_api.spec import FineTuneSpec
from tests.api.wrong_specs import FIELD_ERRORS, TEXT_ERRORS, spec
from tests.skew.specs import SPECS

OF_ANOTHER_TYPE = ("unknown limits", "unknown mode", "no dataset", "segments at random")
DECIMALS = (
    "training.learningRate",
    "preprocessing.durationSeconds",
    "preprocessing.cropX",
    "preprocessing.cropY",
)
TEXTS = [row for row in TEXT_ERRORS if row[1] not in DECIMALS]
VALUES = [row for row in FIELD_ERRORS if row[0] not in OF_ANOTHER_TYPE]


def _given(found: FineTuneSpec) -> dict[str, Any]:
    return found.model_dump(mode="json", by_alias=True, exclude_unset=True)


@pytest.mark.parametrize(("name", "field", "value", "_message"), TEXTS, ids=[row[0] for row in TEXTS])
def test_a_text_that_has_another_shape_now_is_kept(name: str, field: str, value: Any, _message: str) -> None:
    changed = spec({field: value})
    assert _given(accepted(FineTuneSpec, changed)) == changed


@pytest.mark.parametrize(("name", "changes", "_words"), VALUES, ids=[row[0] for row in VALUES])
def test_a_number_or_a_list_beyond_the_limits_of_today_is_kept(
    name: str, changes: dict[str, Any], _words: list[str]
) -> None:
    found = accepted(FineTuneSpec, spec({"training.steps": 0, **changes}))
    assert found.training.steps == 0
    assert type(found.training) is type(FineTuneSpec.model_validate(spec()).training)


@pytest.mark.parametrize("name", OF_ANOTHER_TYPE)
def test_what_is_no_value_of_the_field_cannot_be_read(name: str) -> None:
    changes = next(row[1] for row in FIELD_ERRORS if row[0] == name)
    with pytest.raises(ValidationError):
        accepted(FineTuneSpec, spec(changes))


@pytest.mark.parametrize("name", SPECS)
@given(steps=st.integers(-5, 5))
def test_nothing_else_is_read_otherwise(name: str, steps: int) -> None:
    raw = {**SPECS[name], "training": {**SPECS[name].get("training", {}), "steps": 3}}
    wanted = FineTuneSpec.model_validate(raw)
    wanted = wanted.model_copy(update={"training": wanted.training.model_copy(update={"steps": steps})})
    found = accepted(FineTuneSpec, {**raw, "training": {**raw["training"], "steps": steps}})
    assert found == wanted
    assert found.to_wire() == wanted.to_wire()
    assert found.model_dump(exclude_defaults=True) == wanted.model_dump(exclude_defaults=True)
