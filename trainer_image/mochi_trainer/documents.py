"""JSON that somebody else wrote, or that lay where somebody else could write: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def json_of(data: str | bytes) -> Any:
    """What `data` says.

    Raises ValueError when it is no JSON, nested too deeply to be read included, which json tells otherwise.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_object(data: str | bytes) -> dict[str, Any]:
    """As `json_of`, of an object. Raises ValueError when it is none."""
    found = json_of(data)
    if not isinstance(found, dict):
        raise ValueError(f"an object is needed, got {type(found).__name__}")
    return found
