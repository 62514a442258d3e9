"""The base of every type of the contract, and the small types they share."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

DECIMAL_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"


class ApiModel(BaseModel):
    """Frozen, closed (an unknown field is an error), camelCase outside and snake_case inside."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True,
        use_attribute_docstrings=True
    )

    def to_wire(self) -> dict[str, Any]:
        """This value as plain JSON types under its outside names; fields that are not set are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _decimal(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be a string such as '0.0002' (the Kubernetes API keeps no floats), got {value!r}")
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
