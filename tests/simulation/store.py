"""The objects of the API server. Nothing is changed in place: a reader may keep what it was given without a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from mochi_operator.timestamps import render
from tests.simulation.kernel import Kernel

Object = dict[str, Any]
Listener = Callable[[str, Object | None, Object | None], None]
"""Called with kind, the object before, and the object after a change."""


class Store:
    """Objects by kind, namespace and name, with uid, resourceVersion, generation, owners and graceful deletion."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._version = 0
        self._uids = 0
        self._going: set[str] = set()
        self.listeners: list[Listener] = []

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object."""
        return self._objects.get(kind, {}).get((namespace, name))

    def all(self, kind: str) -> list[Object]:
        """All objects of a kind, oldest first."""
        return list(self._objects.get(kind, {}).values())

    def owned(self, kind: str, uid: str) -> list[Object]:
        """Objects of a kind whose controller is `uid`."""
        return [item for item in self.all(kind) if owner(item).get("uid") == uid]

    def alive(self, uid: str) -> bool:
        """Whether an object of this uid exists."""
        return any(item["metadata"]["uid"] == uid for item in self._everything())

    def add(self, manifest: Object) -> Object:
        """Create; the caller has looked that the name is free."""
        self._uids += 1
        self._version += 1
        meta = {
            **manifest["metadata"],
            "uid": f"uid-{self._uids}",
            "generation": 1,
            "creationTimestamp": self._kernel.stamp(),
            "resourceVersion": str(self._version),
        }
        stored = {**manifest, "metadata": meta}
        self._objects.setdefault(manifest["kind"], {})[meta["namespace"], meta["name"]] = stored
        self._tell(manifest["kind"], None, stored)
        return stored

    def edit(
        self, current: Object, *, meta: Mapping[str, Any] | None = None, **sections: Any
    ) -> Object | None:
        """Replace top-level sections, and merge into the metadata, of the object as it is now; None when it is gone."""
        kind, old = current["kind"], self.fresh(current)
        if old is None:
            return None
        self._version += 1
        merged = {**old["metadata"], **(meta or {}), "resourceVersion": str(self._version)}
        if "spec" in sections:
            merged["generation"] = old["metadata"]["generation"] + 1
        new = {**old, **sections, "metadata": merged}
        self._objects[kind][merged["namespace"], merged["name"]] = new
        self._tell(kind, old, new)
        return new

    def fresh(self, item: Object) -> Object | None:
        """This very object as it is now."""
        meta = item["metadata"]
        found = self.get(item["kind"], meta["namespace"], meta["name"])
        return found if found is not None and found["metadata"]["uid"] == meta["uid"] else None

    def delete(self, item: Object, *, grace: float | None = None) -> None:
        """What DELETE does: a pod that is bound to a node terminates first, everything else is gone at once."""
        found = self.fresh(item)
        if found is None:
            return
        bound = found["kind"] == "Pod" and found["spec"].get("nodeName")
        if not bound:
            self.remove(found)
        elif "deletionTimestamp" not in found["metadata"]:
            limit = found["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
            due = render(self._kernel.now + timedelta(seconds=limit))
            self.edit(found, meta={"deletionTimestamp": due, "deletionGracePeriodSeconds": int(limit)})

    def remove(self, item: Object) -> None:
        """The object goes, unless a finalizer still holds it."""
        found = self.fresh(item)
        if found is None:
            return
        meta = found["metadata"]
        if meta.get("finalizers"):
            self._going.add(meta["uid"])
            if "deletionTimestamp" not in meta:
                self.edit(found, meta={"deletionTimestamp": self._kernel.stamp()})
            return
        del self._objects[found["kind"]][meta["namespace"], meta["name"]]
        self._tell(found["kind"], found, None)

    def release(self, item: Object) -> None:
        """Take the finalizers off; an object that was only held by them goes."""
        found = self.fresh(item)
        if found is None or not found["metadata"].get("finalizers"):
            return
        new = self.edit(found, meta={"finalizers": []})
        if new is not None and new["metadata"]["uid"] in self._going:
            self.remove(new)

    def _everything(self) -> Iterator[Object]:
        for items in self._objects.values():
            yield from items.values()

    def everything(self) -> list[Object]:
        """All objects."""
        return list(self._everything())

    def _tell(self, kind: str, old: Object | None, new: Object | None) -> None:
        for listener in self.listeners:
            listener(kind, old, new)


def owner(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The controlling owner's reference, empty when there is none."""
    for reference in item["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return reference  # type: ignore[no-any-return]
    return {}


def has_condition(item: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition of the object is True."""
    found = (item.get("status") or {}).get("conditions") or ()
    return any(entry["type"] == kind and entry["status"] == "True" for entry in found)


def ended(child: Mapping[str, Any]) -> bool:
    """Whether a Job or a PyTorchJob has reached its end."""
    return any(has_condition(child, kind) for kind in ("Complete", "Failed", "Succeeded"))


def label(item: Mapping[str, Any], name: str) -> str:
    """One of the object's labels, empty when it has none."""
    return str((item["metadata"].get("labels") or {}).get(name, ""))
