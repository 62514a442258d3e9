"""The rules on `workers.env`: each name once, none that the operator sets itself, one value."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api import identity
from mochi_api.base import cel_text
from mochi_api.rules.rule import Rule, cel_message
from mochi_api.spec import FineTuneSpec

_OWN_NAMES = "spec.workers.env must leave to the operator what it sets itself"
_NAMES_ONCE = "spec.workers.env must name each variable once, got one twice"
_ONE_VALUE = "spec.workers.env must have value or valueFrom, not both"
_ENV = "self.workers.env"
_IS_OWN = "(e.name in [{}] || e.name.startsWith({}))".format(
    ", ".join(map(cel_text, identity.OWN_ENV)), cel_text(identity.OWN_ENV_PREFIX)
)
_HAS_BOTH = "(has(e.value) && e.value != '' && has(e.valueFrom))"


def _own_names(spec: FineTuneSpec) -> str | None:
    for each in spec.workers.env:
        if each.name in identity.OWN_ENV or each.name.startswith(identity.OWN_ENV_PREFIX):
            return f"{_OWN_NAMES}, got {each.name}"
    return None


def _names_once(spec: FineTuneSpec) -> str | None:
    names = [each.name for each in spec.workers.env]
    return None if len(set(names)) == len(names) else _NAMES_ONCE


def _one_value(spec: FineTuneSpec) -> str | None:
    both = (each.name for each in spec.workers.env if each.value and each.value_from is not None)
    found = next(both, None)
    return None if found is None else f"{_ONE_VALUE}, got both for {found}"


ENV: Sequence[Rule] = (
    Rule(
        path="spec.workers.env",
        cel=f"!has({_ENV}) || !{_ENV}.exists(e, {_IS_OWN})",
        message=cel_message(f"{_OWN_NAMES}, got %s", f"{_ENV}.filter(e, {_IS_OWN})[0].name"),
        broken=_own_names,
    ),
    Rule(
        path="spec.workers.env",
        cel=f"!has({_ENV}) || {_ENV}.all(e, {_ENV}.exists_one(f, f.name == e.name))",
        message=f"'{_NAMES_ONCE}'",
        broken=_names_once,
    ),
    Rule(
        path="spec.workers.env",
        cel=f"!has({_ENV}) || !{_ENV}.exists(e, {_HAS_BOTH})",
        message=cel_message(f"{_ONE_VALUE}, got both for %s", f"{_ENV}.filter(e, {_HAS_BOTH})[0].name"),
        broken=_one_value,
    ),
)
