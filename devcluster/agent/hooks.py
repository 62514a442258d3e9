"""Hooks for tests: do to a pod what a cluster may do, through the API server.

`evict --by api` sets the condition the eviction API sets and deletes the pod; `--by node` sets the condition that
makes the agent end it as a kubelet does under node pressure (phase Failed, reason Evicted; the pod stays).
`oom-kill` ends a container as the kernel's out-of-memory killer would.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devcluster.agent.api import MERGE_TYPE, STRATEGIC_TYPE, Api, read_kubeconfig

OOM_ANNOTATION = "devcluster/oom-kill"
"""On a pod: the name of the container to kill; the agent takes it as an order for its current attempt."""
_REASONS = {
    "api": ("EvictionByEvictionAPI", "Eviction API: evicting"),
    "node": ("TerminationByKubelet", "The node was low on resource: memory."),
}


def parser() -> argparse.ArgumentParser:
    """The options of the hooks."""
    result = argparse.ArgumentParser(prog="python -m devcluster.agent", description=__doc__)
    commands = result.add_subparsers(dest="command", required=True)
    evict = commands.add_parser("evict")
    evict.add_argument("--by", choices=sorted(_REASONS), default="api")
    kill = commands.add_parser("oom-kill")
    for command in (evict, kill):
        command.add_argument("--kubeconfig", type=Path, required=True)
        command.add_argument("namespace")
        command.add_argument("pod")
    kill.add_argument("container")
    return result


COMMANDS = ("evict", "oom-kill")


def run(arguments: argparse.Namespace) -> int:
    """Carry out one hook."""
    api = Api(read_kubeconfig(arguments.kubeconfig))
    path = f"/api/v1/namespaces/{arguments.namespace}/pods/{arguments.pod}"
    if arguments.command == "evict":
        api.request(
            "PATCH", f"{path}/status", {"status": _disruption(arguments.by)}, content_type=STRATEGIC_TYPE
        )
        if arguments.by == "api":
            api.request("DELETE", path)
    else:
        body = {"metadata": {"annotations": {OOM_ANNOTATION: arguments.container}}}
        api.request("PATCH", path, body, content_type=MERGE_TYPE)
    return 0


def _disruption(by: str) -> dict[str, Any]:
    reason, message = _REASONS[by]
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now,
    }
    return {"conditions": [condition]}
