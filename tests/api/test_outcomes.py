"""The table of outcomes, and the line a pod leaves behind."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from mochi_api import outcomes
from mochi_api.outcomes import CheckResult, Item, Outcome, Reason, StageResult
from mochi_api.pods import RetryReason


def test_every_reason_has_one_row_and_every_code_one_reason() -> None:
    assert sorted(row.reason for row in outcomes.TABLE) == sorted(Reason)
    codes = [row.exit_code for row in outcomes.TABLE if row.exit_code is not None]
    assert len(set(codes)) == len(codes)


def test_a_code_outside_the_table_is_unknown_and_tried_again() -> None:
    row = outcomes.row_of_exit_code(137)
    assert (row.reason, row.retryable) == (Reason.UNKNOWN, True)


@given(st.text(max_size=20_000), st.lists(st.text(max_size=1024), max_size=8))
def test_the_line_always_fits_and_reads_back(message: str, failures: list[str]) -> None:
    items = [Item(clip=text[:100], message=text) for text in failures]
    result = StageResult(items_failed=len(items), failures=items)
    line = Outcome(reason=Reason.DATASET_REJECTED, message=message, stage_result=result).to_line()
    assert len(line.encode()) <= outcomes.TERMINATION_LOG_BYTES
    back = Outcome.model_validate_json(line)
    assert back.reason is Reason.DATASET_REJECTED
    assert back.stage_result is not None
    assert back.stage_result.items_failed == len(items)


@given(
    st.text(max_size=5000),
    st.text(max_size=512),
    st.lists(st.text(max_size=256), max_size=16),
    st.lists(st.text(max_size=256), max_size=8),
)
def test_the_line_of_a_check_fits_too_and_keeps_its_remedy(
    message: str, action: str, checked: list[str], warnings: list[str]
) -> None:
    result = CheckResult(clips=7, checked=checked, warnings=warnings)
    line = Outcome(reason=Reason.COMPLETED, message=message, action=action, check_result=result).to_line()
    assert len(line.encode()) <= outcomes.TERMINATION_LOG_BYTES
    back = Outcome.model_validate_json(line)
    assert back.action == action
    assert back.check_result is not None
    assert back.check_result.clips == 7


def test_a_long_line_of_a_check_loses_what_is_good_before_what_may_go_wrong() -> None:
    result = CheckResult(checked=["g" * 256] * 16, warnings=["w" * 256] * 8)
    back = Outcome.model_validate_json(
        Outcome(reason=Reason.COMPLETED, message="short", check_result=result).to_line()
    )
    assert back.message == "short"
    assert back.check_result is not None
    assert len(back.check_result.warnings) == 8
    assert 0 < len(back.check_result.checked) < 16


def test_the_spec_offers_just_the_reasons_that_may_pass_by_themselves() -> None:
    assert get_args(RetryReason) == outcomes.retryable_reasons()
