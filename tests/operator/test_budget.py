"""The budget of a step: a table, and laws."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_api.outcomes import DISRUPTIONS, Reason, retryable_reasons
from mochi_api.pods import RetryBackoffSpec, RetryReason, RunPolicySpec
from mochi_operator.state import Step
from mochi_operator.steps.budget import account, backoff_seconds

POLICY = RunPolicySpec()
R = Reason


@pytest.mark.parametrize(
    ("spent", "furthest", "reason", "last", "after", "again"),
    [
        (0, 0, R.STORAGE_ERROR, 0, 1, True),
        (2, 0, R.STORAGE_ERROR, 0, 3, True),
        (3, 0, R.STORAGE_ERROR, 0, 4, False),
        (3, 10, R.STORAGE_ERROR, 10, 4, False),
        (3, 10, R.STORAGE_ERROR, 11, 1, True),
        (3, 10, R.PREEMPTED, 5, 3, True),
        (3, 10, R.NODE_LOST, 5, 3, True),
        (3, 10, R.PREEMPTED, 11, 0, True),
        (9, 10, R.PREEMPTED, 5, 9, True),  # the limit was lowered meanwhile
        (9, 10, R.STORAGE_ERROR, 5, 10, False),
        (0, 0, R.OUT_OF_MEMORY, 0, 1, False),
        (0, 10, R.OUT_OF_MEMORY, 99, 1, False),
        (0, 0, R.ARTIFACTS_MISSING, 0, 1, True),
        (0, 0, R.BACKEND_DELETED, 0, 1, True),
        (0, 0, R.UNKNOWN, 0, 1, True),
    ],
)
def test_what_a_failure_does_to_the_budget(spent, furthest, reason, last, after, again):
    found = account(Step(name="train", spent=spent, furthest=furthest), reason, last, POLICY)
    assert (found.spent, found.refusal == "") == (after, again)
    assert found.furthest == max(furthest, last)


def test_the_policy_lists_just_the_reasons_that_the_table_calls_retryable():
    assert set(get_args(RetryReason)) == {reason.value for reason in retryable_reasons()}
    assert set(POLICY.retry_on) == {reason.value for reason in retryable_reasons()}


def policies() -> st.SearchStrategy[RunPolicySpec]:
    return st.builds(
        RunPolicySpec,
        backoff_limit=st.integers(0, 100),
        retry_backoff=st.builds(
            RetryBackoffSpec, initial_seconds=st.integers(0, 86_400), max_seconds=st.integers(0, 86_400)
        ),
    )


@given(policies(), st.lists(st.sampled_from(sorted(set(retryable_reasons()) - DISRUPTIONS)), max_size=110))
def test_without_progress_there_are_as_many_attempts_as_the_limit_and_one(policy, reasons):
    step, made = Step(name="train"), 1
    for reason in reasons:
        found = account(step, reason, 0, policy)
        step = replace(step, spent=found.spent, furthest=found.furthest)
        if found.refusal:
            break
        made += 1
    assert made == min(len(reasons), policy.backoff_limit) + 1


@given(policies(), st.lists(st.sampled_from(sorted(DISRUPTIONS)), max_size=50))
def test_the_cluster_can_take_an_attempt_away_as_often_as_it_likes(policy, reasons):
    step = Step(name="train")
    for reason in reasons:
        found = account(step, reason, 0, policy)
        assert (found.refusal, found.spent) == ("", 0)


@given(
    policies(),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(list(Reason)),
    st.integers(0, 200),
)
def test_progress_never_makes_a_refusal_and_no_wait_is_longer_than_the_policy_says(
    policy, furthest, last, reason, spent
):
    step = Step(name="train", spent=spent, furthest=furthest)
    found, further = (account(step, reason, seen, policy) for seen in (last, furthest + 1))
    assert 0 <= found.wait_seconds <= policy.retry_backoff.max_seconds
    assert found.furthest >= furthest
    assert further.spent <= found.spent
    if further.refusal:
        assert found.refusal


@given(policies(), st.integers(1, 10_000))
def test_waits_never_get_shorter(policy, failures):
    backoff = policy.retry_backoff
    assert backoff_seconds(backoff, failures) <= backoff_seconds(backoff, failures + 1)
