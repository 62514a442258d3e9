"""Deterministic kernels by choice."""

from __future__ import annotations

import pytest
import torch

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.parallel.determinism import determinism


def test_it_is_on_for_the_block_where_it_is_asked_for() -> None:
    environ = {"MOCHI_DETERMINISTIC": "1"}
    with determinism(environ) as on:
        assert (on, torch.are_deterministic_algorithms_enabled()) == (True, True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_workspace_that_somebody_chose_stays() -> None:
    environ = {"MOCHI_DETERMINISTIC": "1", "CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    with determinism(environ):
        assert environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize("environ", [{}, {"MOCHI_DETERMINISTIC": ""}, {"MOCHI_DETERMINISTIC": "0"}])
def test_it_is_off_otherwise(environ: dict[str, str]) -> None:
    with determinism(environ) as on:
        assert (on, torch.are_deterministic_algorithms_enabled()) == (False, False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in environ


def test_another_value_is_refused() -> None:
    with (
        pytest.raises(InvalidInputError, match="MOCHI_DETERMINISTIC must be 0 or 1, got yes"),
        determinism({"MOCHI_DETERMINISTIC": "yes"}),
    ):
        raise AssertionError
