"""How many attempts a step may have, and how long to wait between two of them; pure."""

from __future__ import annotations

from dataclasses import dataclass

from mochi_api.outcomes import DISRUPTIONS, Reason
from mochi_api.pods import RetryBackoffSpec, RunPolicySpec
from mochi_operator.state import Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The budget of a step after one more attempt has failed."""

    spent: int
    furthest: int
    refusal: str
    """Why no further attempt is made; empty when one is."""
    wait_seconds: int


def account(step: Step, reason: Reason, reached: int, policy: RunPolicySpec) -> Account:
    """What the failure of the newest attempt for `reason`, at step `reached` of the training, does to the budget.

    An attempt that got further than all before it starts the count anew, which can happen no more often than there are
    steps. One that the cluster took away (preempted, evicted, its node lost) does not count, and is not the last one
    either where the limit was lowered below what is spent.
    """
    before = 0 if reached > step.furthest else step.spent
    spent = before if reason in DISRUPTIONS else before + 1
    refusal = ""
    if reason.value not in policy.retry_on:
        refusal = f"no further attempt is made after {reason}"
    elif reason not in DISRUPTIONS and spent > policy.backoff_limit:
        refusal = f"no attempt is left (runPolicy.backoffLimit = {policy.backoff_limit})"
    return Account(
        spent=spent,
        furthest=max(step.furthest, reached),
        refusal=refusal,
        wait_seconds=backoff_seconds(policy.retry_backoff, max(spent, 1)),
    )


def backoff_seconds(policy: RetryBackoffSpec, failures: int) -> int:
    """The wait after so many failed attempts: doubled each time, bounded."""
    return min(policy.max_seconds, policy.initial_seconds << min(failures - 1, 30))
