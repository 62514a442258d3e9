"""Numbers from environment variables."""

from __future__ import annotations

import math
import os

from mochi_trainer.errors import InvalidInputError


def seconds(name: str, default: float) -> float:
    """A time from the environment variable `name`; unset or empty means `default`. Raises InvalidInputError."""
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise InvalidInputError(f"{name} must be a number of seconds above 0, got {text!r:.60}")
    return found
