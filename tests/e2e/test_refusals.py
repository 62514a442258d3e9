"""The API server refuses a wrong object with a message that names field, limit and value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from demo.kubectl import KubectlError
from tests.api.wrong_specs import FIELD_ERRORS, LEGAL, RULE_ERRORS, TEXT_ERRORS, spec
from tests.e2e.lab import Lab


def _apply(lab: Lab, name: str, document: dict[str, Any]) -> str:
    manifest = {
        "apiVersion": "mochi.finetune.dev/v1alpha1",
        "kind": "MochiFineTune",
        "metadata": {"name": name},
        "spec": document,
    }
    return lab.kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))


def test_the_smallest_spec_is_accepted(lab: Lab) -> None:
    assert "created (server dry run)" in _apply(lab, "fine", spec())


@pytest.mark.parametrize(("name", "changes", "message"), RULE_ERRORS, ids=[row[0] for row in RULE_ERRORS])
def test_a_broken_rule_is_refused_with_its_message(
    name: str, changes: dict[str, Any], message: str, lab: Lab
) -> None:
    with pytest.raises(KubectlError) as refusal:
        _apply(lab, "wrong", spec(changes))
    assert message in str(refusal.value)


@pytest.mark.parametrize(("name", "changes"), LEGAL, ids=[row[0] for row in LEGAL])
def test_what_only_looks_wrong_is_accepted(name: str, changes: dict[str, Any], lab: Lab) -> None:
    assert "created (server dry run)" in _apply(lab, "fine", spec(changes))


@pytest.mark.parametrize(("name", "changes", "words"), FIELD_ERRORS, ids=[row[0] for row in FIELD_ERRORS])
def test_a_field_out_of_bounds_is_refused(
    name: str, changes: dict[str, Any], words: list[str], lab: Lab
) -> None:
    with pytest.raises(KubectlError) as refusal:
        _apply(lab, "wrong", spec(changes))
    said = str(refusal.value)
    assert [word for word in words if word not in said] == []
    assert "evaluating rule" not in said
    assert "the nearest are" not in said  # lengths that the bounds refuse as well


@pytest.mark.parametrize(
    ("name", "field", "value", "message"), TEXT_ERRORS, ids=[row[0] for row in TEXT_ERRORS]
)
def test_a_text_of_another_shape_is_refused_in_words(
    name: str, field: str, value: Any, message: str, lab: Lab
) -> None:
    with pytest.raises(KubectlError) as refusal:
        _apply(lab, "wrong", spec({field: value}))
    said = str(refusal.value)
    assert f"spec.{field}" in said
    assert message.rstrip() in said
    assert "evaluating rule" not in said
    assert "should match" not in said


def test_a_name_from_which_no_child_name_can_derive_is_refused(lab: Lab) -> None:
    with pytest.raises(KubectlError, match=r"at most 45 characters .*got 46"):
        _apply(lab, "a" * 46, spec())


@pytest.mark.parametrize("name", ["1st", "a.b"])
def test_a_name_that_no_service_could_have_is_refused(lab: Lab, name: str) -> None:
    with pytest.raises(KubectlError, match=rf"metadata\.name must start with a letter .*got {name}"):
        _apply(lab, name, spec())


def test_a_run_cannot_be_changed_under_way(lab: Lab) -> None:
    lab.apply("frozen", {"dataset.source.s3.uri": "s3://demo/nothing-here/"})
    with pytest.raises(KubectlError, match=r"spec\.training is immutable: create a new MochiFineTune"):
        lab.apply("frozen", {"dataset.source.s3.uri": "s3://demo/nothing-here/", "training.steps": 25})
    lab.apply("frozen", {"dataset.source.s3.uri": "s3://demo/nothing-here/", "runPolicy.backoffLimit": 1})
    lab.kubectl.run("delete", "mft", "frozen", "--timeout=180s", seconds=190)
