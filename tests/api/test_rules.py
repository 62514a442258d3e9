"""Each rule, in its Python form; tests/e2e feeds the same table to the API server, in its CEL form."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mochi_api import resolved, rules
from mochi_api.base import DECIMAL
from mochi_api.runfile import explain
from mochi_api.spec import FineTuneSpec
from tests.api.wrong_specs import FIELD_ERRORS, LEGAL, RULE_ERRORS, TEXT_ERRORS, spec


def test_the_smallest_spec_obeys_all_rules() -> None:
    assert rules.violations(FineTuneSpec.model_validate(spec())) == []


@pytest.mark.parametrize(("name", "changes", "message"), RULE_ERRORS, ids=[row[0] for row in RULE_ERRORS])
def test_a_broken_rule_names_field_limit_and_value(name: str, changes: dict, message: str) -> None:
    assert message in rules.violations(FineTuneSpec.model_validate(spec(changes), extra="forbid"))


@pytest.mark.parametrize(("name", "changes"), LEGAL, ids=[row[0] for row in LEGAL])
def test_what_only_looks_wrong_is_accepted(name: str, changes: dict) -> None:
    assert rules.violations(FineTuneSpec.model_validate(spec(changes), extra="forbid")) == []


@pytest.mark.parametrize(("name", "changes", "words"), FIELD_ERRORS, ids=[row[0] for row in FIELD_ERRORS])
def test_a_field_out_of_bounds_is_refused(name: str, changes: dict, words: list[str]) -> None:
    with pytest.raises(ValidationError):
        FineTuneSpec.model_validate(spec(changes), extra="forbid")


@pytest.mark.parametrize(
    ("name", "field", "value", "message"), TEXT_ERRORS, ids=[row[0] for row in TEXT_ERRORS]
)
def test_a_text_of_another_shape_is_refused_in_words(name: str, field: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        FineTuneSpec.model_validate(spec({field: value}))
    (problem,) = refusal.value.errors()
    assert problem["msg"] == message
    assert explain(refusal.value).startswith(field)
    assert explain(refusal.value).endswith(message)


def test_a_line_break_at_the_end_is_part_of_the_text() -> None:
    with pytest.raises(ValidationError, match="must be s3://bucket/prefix"):
        FineTuneSpec.model_validate(spec({"storage.outputURI": "s3://demo/out\n"}))


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_what_is_written_of_a_decimal_can_be_read_again(number: Decimal) -> None:
    assert DECIMAL.matches(format(number, "f"))


@pytest.mark.parametrize("name", ["1st", "a.b", "Run", "run-", "a" * 46])
def test_a_name_from_which_no_child_name_can_derive_is_refused(name: str) -> None:
    assert str(rules.name_problem(name)).startswith("metadata.name must ")


def test_a_name_at_the_limit_is_accepted() -> None:
    assert rules.name_problem("a" * rules.NAME_LIMIT) is None


def test_the_usual_number_of_pods_is_the_same_in_both_languages() -> None:
    batches = [rule for rule in rules.RULES if rule.path == "spec.training.globalBatchSize"]
    for mode, gpus in resolved.USUAL_GPUS.items():
        assert resolved.replicas(FineTuneSpec.model_validate(spec({"mode": mode}))) == gpus
        assert all(str(gpus) in batch.cel for batch in batches)


@pytest.mark.parametrize(("gpus", "pods"), [(0, 8), (1, 8), (2, 4), (3, 3), (4, 2), (5, 2), (7, 2), (8, 1)])
def test_without_a_number_of_pods_there_are_the_fewest_with_eight_gpus(gpus: int, pods: int) -> None:
    changes = {"mode": "full", "workers.gpusPerPod": gpus}
    found = FineTuneSpec.model_validate(spec(changes))
    assert resolved.replicas(found) == pods
    assert resolved.processes(found) == pods * max(1, gpus)
    assert resolved.training(found).global_batch_size == pods * max(1, gpus)
    shared = FineTuneSpec.model_validate(spec({**changes, "training.contextParallel": max(1, gpus)}))
    assert resolved.training(shared).global_batch_size == pods
    lora = FineTuneSpec.model_validate(spec({**changes, "mode": "lora", "limits": "Memory"}))
    assert resolved.replicas(lora) == 1


@given(st.integers(1, 6000), st.integers(1, 60))
def test_frames_that_fit_is_the_largest_that_lasts_no_longer(hundredths: int, fps: int) -> None:
    seconds = hundredths / 100
    frames = rules.frames_that_fit(seconds, fps)
    if frames == 0:
        assert seconds * fps < 1
    else:
        assert frames % 6 == 1
        assert frames <= seconds * fps + 1e-6 < frames + 6


def test_the_guides_two_and_a_half_seconds_hold_73_frames() -> None:
    assert rules.frames_that_fit(2.5, 30) == 73


def test_the_wire_form_of_a_spec_reads_back_as_the_same_spec() -> None:
    parsed = FineTuneSpec.model_validate(
        spec({"training.learningRate": "0.00012", "preprocessing.durationSeconds": "2.9"})
    )
    assert FineTuneSpec.model_validate(parsed.to_wire()) == parsed
