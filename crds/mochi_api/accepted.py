"""Reading what was accepted once: the types of a spec hold, and no rule on its values.

A later version may have more rules, and shorter limits. They are for runs to come: one that goes on keeps the values with
which it was taken on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from mochi_api.base import ApiModel

Model = TypeVar("Model", bound=ApiModel)


def accepted(model: type[Model], raw: Mapping[str, Any]) -> Model:
    """`raw` as `model`; where a rule on its values is broken, by its types alone.

    Raises ValidationError for a value of another type, a choice that is unknown, and a required field that is not there.
    """
    try:
        return model.model_validate(raw)
    except ValidationError:
        return model.model_construct(**_values(_by_types(model).model_validate(raw)))


@cache
def _by_types(model: type[ApiModel]) -> type[ApiModel]:
    """`model` and what is below it without limits, patterns and bounds; a subclass of it."""
    fields: dict[str, Any] = {
        name: (_type(info.annotation), _open(info)) for name, info in model.model_fields.items()
    }
    return create_model(model.__name__, __base__=model, **fields)


def _open(info: FieldInfo) -> Any:
    """The field's default and outside name, and nothing that is asked of its value."""
    if info.default_factory is None:
        return Field(default=info.default, alias=info.alias)
    return Field(default_factory=info.default_factory, alias=info.alias)


def _type(annotation: Any) -> Any:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin in {Union, UnionType}:
        return reduce(or_, map(_type, inner))
    if origin in {list, dict}:
        return origin[tuple(map(_type, inner))]
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return _by_types(annotation)
    return annotation


def _values(found: ApiModel) -> dict[str, Any]:
    """The fields that were given, what is below them as the types that everybody knows."""
    return {name: _plain(getattr(found, name)) for name in found.model_fields_set}


def _plain(value: Any) -> Any:
    if isinstance(value, ApiModel):
        known = type(value).__mro__[1]
        assert issubclass(known, ApiModel), "only what was read by its types is read here"
        return known.model_construct(**_values(value))
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
