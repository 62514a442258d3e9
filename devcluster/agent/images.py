"""The table that stands for container images: reference -> entry point, environment, user, working folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_USER = 10001
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageError(Exception):
    """No such image; the message names the reference and the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the agent knows of an image."""

    reference: str
    entrypoint: Sequence[str]
    env: Mapping[str, str]
    user: int = DEFAULT_USER
    """The image's USER."""
    cwd: str = "/"
    """The image's WORKDIR."""
    visible: Sequence[str] = field(default=())
    """Host paths to show read-only; needed only for paths below /tmp or /run, which are the container's own."""


def without_tag(reference: str) -> str:
    """The repository of an image reference: neither tag nor digest."""
    repository = reference.partition("@")[0]
    head, slash, tail = repository.rpartition("/")
    return head + slash + tail.partition(":")[0]


def find(table: Mapping[str, Mapping[str, Any]], reference: str, origin: str) -> Image:
    """The image for a reference: the exact entry first, then the entry of its repository."""
    entry = table.get(reference) or table.get(without_tag(reference))
    if entry is None:
        raise ImageError(
            f'image "{reference}" is not in the agent\'s table {origin}; add it there (it has {len(table)})'
        )
    return Image(
        reference=reference,
        entrypoint=tuple(entry.get("entrypoint", ())),
        env={"PATH": DEFAULT_PATH, **entry.get("env", {})},
        user=int(entry.get("user", DEFAULT_USER)),
        cwd=entry.get("cwd", "/"),
        visible=tuple(entry.get("visible", ())),
    )


@dataclass(frozen=True, slots=True)
class ImageTable:
    """The table on disk; read at each look-up, so that it may be edited while the agent runs."""

    path: Path

    def find(self, reference: str) -> Image:
        """As `find`; a table that can not be read counts as a failed pull."""
        try:
            table = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise ImageError(f"the agent's image table {self.path} can not be read: {error}") from error
        return find(table, reference, str(self.path))
