"""What is kept on disk of a pod, for an agent that was restarted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devcluster.agent.containers import Container, from_json, to_json


@dataclass(frozen=True, slots=True)
class Record:
    """A pod's address, start (seconds since the epoch) and containers."""

    ip: str
    started_at: float
    containers: tuple[Container, ...]


def read(path: Path) -> Record | None:
    """The record in a file; None when there is none or it can not be read."""
    try:
        raw = json.loads(path.read_text())
        return Record(raw["ip"], raw["started_at"], tuple(from_json(item) for item in raw["containers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, ip: str, started_at: float, containers: Iterable[Container]) -> None:
    """Replace the record in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    body = {"ip": ip, "started_at": started_at, "containers": [to_json(item) for item in containers]}
    part.write_text(json.dumps(body))
    part.replace(path)
