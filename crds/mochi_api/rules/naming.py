"""Rules on the name of a run, from which those of its children derive."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api.base import Pattern
from mochi_api.rules.rule import cel_message

NAME_LIMIT = 45
NAME = Pattern(
    looks_like="[a-z]([-a-z0-9]*[a-z0-9])?",
    words="metadata.name must start with a letter and hold only lower-case letters, digits and hyphens, the last no hyphen "
    "(names of child Services derive from it)",
)
"""Service names are DNS-1035 labels."""

_LONG_NAME = (
    f"metadata.name must have at most {NAME_LIMIT} characters (names of child objects derive from it)"
)

NAME_RULES: Sequence[tuple[str, str, str]] = (
    (
        f"size(self.metadata.name) <= {NAME_LIMIT}",
        _LONG_NAME,
        cel_message(f"{_LONG_NAME}, got %d", "size(self.metadata.name)"),
    ),
    (NAME.cel("self.metadata.name"), NAME.words, cel_message(f"{NAME.words}, got %s", "self.metadata.name")),
)
"""The rules on the object's name: CEL, message, and the CEL expression of the message with the value."""


def name_problem(name: str) -> str | None:
    """Why `name` cannot name a run, or None; the Python form of `NAME_RULES`."""
    if len(name) > NAME_LIMIT:
        return f"{_LONG_NAME}, got {len(name)}"
    return None if NAME.matches(name) else f"{NAME.words}, got {name}"
