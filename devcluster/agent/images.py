"""The table that stands for container images: reference -> entry point, environment, user, working folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster.agent.containers import State, Waiting

PULL_FAILED = "ErrImagePull"
PULL_SHOWN = 1.0
"""Seconds a failed pull is told as such, before it is told as the wait for the next try."""
PULL_PAUSE = 5.0
"""Seconds between two tries; a kubelet takes 10, then twice as many each time."""
_REFERENCE = re.compile(
    r"([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]{0,127})?(@[a-z0-9]+:[0-9a-f]+)?"
)
DEFAULT_USER = 10001
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageError(Exception):
    """No such image; the message names the reference and the table, `reason` is the container's while it waits."""

    def __init__(self, message: str, reason: str = PULL_FAILED) -> None:
        super().__init__(message)
        self.reason = reason


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
    if _REFERENCE.fullmatch(reference) is None:
        raise ImageError(
            f'couldn\'t parse image name "{reference}": invalid reference format', "InvalidImageName"
        )
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


def pull_failed(before: State, reference: str, error: ImageError) -> tuple[Waiting, float]:
    """What a container is waiting for after a failed pull, and for how long: the failure and the pause alternate."""
    if error.reason != PULL_FAILED:
        return Waiting(error.reason, str(error)), PULL_PAUSE
    if isinstance(before, Waiting) and before.reason == PULL_FAILED:
        message = f'Back-off pulling image "{reference}": {PULL_FAILED}: {error}'
        return Waiting("ImagePullBackOff", message), PULL_PAUSE
    return Waiting(PULL_FAILED, str(error)), PULL_SHOWN


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
