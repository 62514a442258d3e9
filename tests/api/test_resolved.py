"""What a spec leaves open is decided by its mode, and the page that says why has the same values."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mochi_api import resolved
from mochi_api.spec import FineTuneSpec, Mode
from tests.api.wrong_specs import spec

PAGE = Path(__file__).parents[2] / "docs/explanation/defaults.md"
MODES: tuple[Mode, ...] = ("lora", "full")


def filled(mode: Mode, **training: Any) -> FineTuneSpec:
    parsed = FineTuneSpec.model_validate(spec() | {"mode": mode, "training": training})
    return parsed.model_copy(update={"training": resolved.training(parsed)})


@pytest.mark.parametrize(("mode", "rate"), [("lora", "0.0002"), ("full", "0.00001")])
def test_the_learning_rate_is_that_of_the_mode(mode: Mode, rate: str) -> None:
    assert filled(mode).training.learning_rate == Decimal(rate)


@pytest.mark.parametrize("mode", MODES)
def test_a_learning_rate_that_is_given_stays(mode: Mode) -> None:
    assert filled(mode, learningRate="0.5").training.learning_rate == Decimal("0.5")


def _value(section: Any, path: str) -> str:
    for name in path.split("."):
        section = section[name]
    if isinstance(section, list):
        return ", ".join(section)
    return str(section)


@pytest.mark.parametrize("column", range(len(MODES)))
def test_the_page_has_the_defaults_of_the_code(column: int) -> None:
    wire = filled(MODES[column]).model_dump(mode="json", by_alias=True)
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for names, *values, source in rows:
        assert source.strip()
        told = values[column].strip()
        if told:
            paths = [name.strip(" `") for name in names.split(",")]
            amounts = [told] if len(paths) == 1 else told.split(", ")
            assert [_value(wire, path) for path in paths] == amounts
