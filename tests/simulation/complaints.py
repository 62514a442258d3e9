"""Warning Events: how controllers and kubelets say what they cannot do."""

from __future__ import annotations

from mochi_operator.cluster import EVENTS
from tests.simulation.kernel import Kernel
from tests.simulation.store import Object, Store


def complain(kernel: Kernel, store: Store, about: Object, reason: str, message: str, component: str) -> None:
    """A Warning about an object; the same one again only moves its time."""
    meta, now = about["metadata"], kernel.stamp()
    for event in store.all(EVENTS.name):
        if event["involvedObject"]["uid"] == meta["uid"] and event["message"] == message:
            store.edit(event, lastTimestamp=now, count=event["count"] + 1)
            return
    kernel.note(component, f"{reason} {meta['name']}: {message}")
    store.add(
        {
            "apiVersion": "v1",
            "kind": EVENTS.name,
            "metadata": {
                "name": f"{meta['name']}.{kernel.rng.getrandbits(48):x}",
                "namespace": meta["namespace"],
            },
            "involvedObject": {"kind": about["kind"], "name": meta["name"], "uid": meta["uid"]},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": component},
        }
    )
