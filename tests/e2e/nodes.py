"""Nodes that are kept for the runs that a test drains or loses them under."""

from __future__ import annotations

from demo.kubectl import Kubectl
from devcluster.parts import node_name
from mochi_api.identity import GROUP

PLACE = f"{GROUP}/e2e-place"


def keep_free(kubectl: Kubectl, node: str) -> None:
    """Nothing runs on the node but what is `placed` on it."""
    kubectl.run("taint", "node", node, f"{PLACE}=:NoSchedule")
    kubectl.run("label", "node", node, f"{PLACE}-{node}=yes")


def placed(node: str) -> dict[str, object]:
    """Changes of a spec for a run whose pods start on `node`."""
    template = {
        "nodeSelector": {f"{PLACE}-{node}": "yes"},
        "tolerations": [{"key": PLACE, "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {"workers.podTemplate": template}


def open_elsewhere(kubectl: Kubectl, node: str) -> None:
    """From now on the pods of a run that started on `node` may be made on the cluster's first node."""
    kubectl.run("label", "node", node_name(0), f"{PLACE}-{node}=yes")
