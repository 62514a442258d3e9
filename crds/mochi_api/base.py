"""The base of every type of the contract, and the small types they share."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

DECIMAL_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"


class ApiModel(BaseModel):
    """Frozen, camelCase outside and snake_case inside.

    Open: a reader ignores what it does not know, since the writer may be of a newer version. Where strictness belongs
    (a file given by hand, the chart's values) the caller asks for it: `model_validate(raw, extra="forbid")`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """This value as plain JSON types under its outside names; fields that are not set are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _decimal(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str):
        raise ValueError(
            f"must be a string such as '0.0002' (the Kubernetes API keeps no floats), got {value!r}"
        )
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError(f"must be a decimal number such as '0.0002', got {value!r}") from None


DecimalString = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    PlainSerializer(lambda value: format(value, "f"), return_type=str),
    WithJsonSchema({"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": 32}),
]
"""A fraction, written as a string: the Kubernetes API conventions allow no floats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Limits of a `DecimalString`: pydantic checks them here, and the CRD gets the same as CEL rules."""

    more_than: int | None = None
    at_least: int | None = None
    at_most: int | None = None
    less_than: int | None = None

    def broken(self, value: Decimal) -> str | None:
        """The limit that `value` breaks, in words; None when it keeps them all."""
        return next((words for words, sign, bound in self.limits() if not _COMPARE[sign](value, bound)), None)

    def limits(self) -> list[tuple[str, str, int]]:
        """The limits that are set: words, sign of the comparison, number."""
        found = (
            (f"more than {self.more_than}", ">", self.more_than),
            (f"at least {self.at_least}", ">=", self.at_least),
            (f"at most {self.at_most}", "<=", self.at_most),
            (f"less than {self.less_than}", "<", self.less_than),
        )
        return [(words, sign, bound) for words, sign, bound in found if bound is not None]

    def _checked(self, value: Decimal) -> Decimal:
        if words := self.broken(value):
            raise ValueError(f"must be {words}, got {value:f}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), BOUNDS_KEY: self.limits()}


BOUNDS_KEY = "x-mochi-bounds"
_COMPARE = {">": operator.gt, ">=": operator.ge, "<=": operator.le, "<": operator.lt}
