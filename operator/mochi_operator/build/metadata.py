"""Metadata of children: name, labels, owner."""

from __future__ import annotations

from typing import Any

from mochi_api import identity
from mochi_operator import names
from mochi_operator.build.order import Order


def labels(order: Order) -> dict[str, str]:
    """Labels of a child and of its pods."""
    return names.labels(order.run.name, order.stage, order.attempt)


def metadata(order: Order, name: str) -> dict[str, Any]:
    """Metadata of one child, owned by the run, so that deleting the run deletes it."""
    return {
        "name": name,
        "namespace": order.run.namespace,
        "labels": labels(order),
        "ownerReferences": [
            {
                "apiVersion": identity.API_VERSION,
                "kind": identity.KIND,
                "name": order.run.name,
                "uid": order.run.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }
