"""Reading what another version wrote: fields that are unknown, or that cannot be read, count as absent.

For a status, an outcome, a sign of life. The spec of an object and a file given by hand have doors of their own.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from pydantic import ValidationError

from mochi_api.base import ApiModel

Model = TypeVar("Model", bound=ApiModel)


def lenient(model: type[Model], raw: object) -> Model | None:
    """`raw` as `model`, without the parts that cannot be read; None when a required part is among them.

    A part is as small as possible: a field where it has a default, otherwise the list item or the object it is in.
    """
    document: object = raw
    while True:
        try:
            return model.model_validate(document)
        except ValidationError as error:
            document = copy.deepcopy(raw) if document is raw else document
            places = [
                problem["loc"][:-1] if problem["type"] == "missing" else problem["loc"]
                for problem in error.errors()
            ]
            if not all(_dropped(document, place) for place in _innermost_last(places)):
                return None


def _innermost_last(places: list[tuple[int | str, ...]]) -> list[tuple[int | str, ...]]:
    """Distinct places, later list items first, so that dropping one leaves the addresses of the others."""
    return sorted(
        set(places),
        key=lambda place: [(isinstance(part, int), str(part).zfill(9)) for part in place],
        reverse=True,
    )


def _dropped(document: Any, place: tuple[int | str, ...]) -> bool:
    """Whether the part at `place` could be taken out of `document`; the document itself cannot."""
    if not place:
        return False
    node = document
    for part in place[:-1]:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return _dropped(document, place[:-1])
    try:
        del node[place[-1]]
    except (KeyError, IndexError, TypeError):
        return _dropped(document, place[:-1])
    return True
