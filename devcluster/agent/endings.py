"""How a container's attempt has ended, from what it left in the pod's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devcluster.agent import logs
from devcluster.agent.containers import LOST, Container, Terminated, lost
from devcluster.agent.launch import PodFolder
from devcluster.agent.process import Exit, read_exit


def container_spec(pod: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the pod asks for of one of its containers."""
    spec = pod["spec"]
    return next(
        item for key in ("initContainers", "containers") for item in spec.get(key, ()) if item["name"] == name
    )


def terminated(pod: Mapping[str, Any], folder: PodFolder, item: Container, ended: Exit) -> Terminated:
    """The state after the end of the current attempt, with its termination message."""
    spec = container_spec(pod, item.name)
    message = logs.termination_message(
        folder.termination(item.name, item.attempt),
        folder.log(item.name, item.attempt),
        spec.get("terminationMessagePolicy", "File"),
        ended.code,
    )
    reason = "OOMKilled" if ended.out_of_memory else LOST if ended.lost else ""
    return Terminated(
        code=ended.code,
        signal=ended.signal,
        reason=reason,
        message=message,
        started_at=ended.started_at,
        finished_at=ended.finished_at,
    )


def survivor(pod: Mapping[str, Any], folder: PodFolder, item: Container, now: float) -> Container:
    """What became of a container of the agent before this one: one that ran has ended."""
    ended = read_exit(folder.result(item.name, item.attempt)) if item.running else None
    return lost(item, now, terminated(pod, folder, item, ended) if ended else None)
