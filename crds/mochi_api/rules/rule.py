"""What a rule is: one condition on the spec in two languages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mochi_api.base import cel_text
from mochi_api.spec import FineTuneSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule on the spec, about fields that cannot change. `cel` is true, and `broken` is None, when the spec obeys it.

    The API server judges it when an object is made and never again: one of before, which may break a rule that came
    later, can still be suspended or given other limits.
    """

    path: str
    """The field the message is about."""
    cel: str
    message: str
    """CEL expression that makes the message; it names the field, the limit and the value."""
    broken: Callable[[FineTuneSpec], str | None]


def cel_message(text: str, *values: str) -> str:
    """A CEL message. One call of `format`: concatenation with `string(int)` has no bound in the API server's cost
    estimate, so it refuses such a CRD."""
    return f"{cel_text(text)}.format([{', '.join(values)}])"
