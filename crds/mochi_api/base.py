"""The base of every type of the contract, and the small types they share."""

from __future__ import annotations

import operator
import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

REFUSED = "refused"
"""Type of an error whose message needs no more than the field's name in front: it has the limit and the value."""
BOUNDS_KEY = "x-mochi-bounds"
PATTERN_KEY = "x-mochi-pattern"
UNSTORED_KEY = "x-mochi-unstored"
UNSTORED: dict[str, JsonValue] = {UNSTORED_KEY: True}
"""Of a field with a default that came after the first version: the API server does not write the default into objects.

An upgrade changes the CRD first, and an operator of before, which refuses what it does not know, still reads them.
"""


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


def refused(words: str, value: object) -> PydanticCustomError:
    """The error of a value that is not what `words` asks for; the API server says the same of it."""
    return PydanticCustomError(REFUSED, "{words}, got {value}", {"words": words, "value": str(value)})


def cel_text(text: str) -> str:
    """`text` as a literal of CEL, the language of the API server's rules."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """What a whole text looks like, and how that is said: pydantic checks it here, and the CRD gets the same in CEL."""

    looks_like: str
    """Regular expression of the whole text, in the part of the syntax that Python and RE2 share."""
    words: str
    """`must be ...`; the value follows."""
    note: str = ""
    """A sentence for the description of each such field."""

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` looks like this."""
        return re.fullmatch(self.looks_like, text, re.ASCII) is not None

    def cel(self, field: str) -> str:
        """The same as `matches`, of a field, in CEL."""
        return f"{field}.matches({cel_text(f'^({self.looks_like})$')})"

    def json_schema(self) -> dict[str, Any]:
        """The keyword of a JSON schema that says the same, and the parts of this for who makes more of it."""
        return {"pattern": f"^({self.looks_like})$", PATTERN_KEY: asdict(self)}

    def checked(self, text: str) -> str:
        """`text`, if the whole of it looks like this; raises the error of a value that does not."""
        if not self.matches(text):
            raise refused(self.words, text)
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), **self.json_schema()}


DECIMAL = Pattern(
    looks_like=r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?",
    words="must be a decimal number such as '0.0002'",
    note='A decimal number in quotes, such as `"0.0002"`.',
)


def _decimal(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str):
        raise refused(
            "must be a string such as '0.0002' (put it in quotes: the Kubernetes API keeps no floats)", value
        )
    if not DECIMAL.matches(value):
        raise refused(DECIMAL.words, value)
    return Decimal(value)


DecimalString = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    PlainSerializer(lambda value: format(value, "f"), return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 32, **DECIMAL.json_schema()}),
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
            raise refused(f"must be {words}", format(value, "f"))
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), BOUNDS_KEY: self.limits()}


_COMPARE = {">": operator.gt, ">=": operator.ge, "<=": operator.le, "<": operator.lt}
