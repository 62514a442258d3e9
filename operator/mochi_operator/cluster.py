"""The edge to the Kubernetes API: the kinds the operator touches, the calls it makes, and the errors they raise.

```
ClusterError
├── NotServedError       the kind is not installed
├── AlreadyExistsError   the name is taken
├── StaleError           the object changed since it was read
├── RefusedError         the API server will not have the object; `final` when a later try cannot help
└── UnavailableError     no answer in time, or a server error: try again
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mochi_api import identity

Manifest = dict[str, Any]
"""A Kubernetes object as plain JSON types."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object and where the API serves it."""

    group: str
    version: str
    plural: str
    name: str

    @property
    def api_version(self) -> str:
        """The `apiVersion` of manifests."""
        return f"{self.group}/{self.version}" if self.group else self.version


FINETUNES = Kind(identity.GROUP, identity.VERSION, identity.PLURAL, identity.KIND)
JOBS = Kind("batch", "v1", "jobs", "Job")
PYTORCHJOBS = Kind("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
PODS = Kind("", "v1", "pods", "Pod")
CONFIGMAPS = Kind("", "v1", "configmaps", "ConfigMap")
EVENTS = Kind("", "v1", "events", "Event")
KINDS = {kind.name: kind for kind in (FINETUNES, JOBS, PYTORCHJOBS, PODS, CONFIGMAPS, EVENTS)}


class ClusterError(Exception):
    """A call to the Kubernetes API did not do what was asked."""


class NotServedError(ClusterError):
    """The kind is not installed in the cluster."""


class AlreadyExistsError(ClusterError):
    """An object of that name exists."""


class StaleError(ClusterError):
    """The object changed, or was replaced, since it was read."""


class RefusedError(ClusterError):
    """The API server refuses the request."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final
        """True when the object itself is at fault, so that trying again cannot help."""


class UnavailableError(ClusterError):
    """The API server did not answer in time or had an error of its own."""


class Cluster(Protocol):
    """What the operator asks of the Kubernetes API; every call has a time limit and raises ClusterError."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object, or None when there is none."""
        ...

    async def list(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        """All objects with these labels and fields, of all namespaces when `namespace` is None.

        Raises NotServedError when the kind is not installed.
        """
        ...

    async def create(self, kind: Kind, namespace: str, manifest: Manifest) -> None:
        """Create; raises AlreadyExistsError, RefusedError, NotServedError."""
        ...

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete with its dependents in the background; an object that is gone, or has another uid, is left alone."""
        ...

    async def write_status(
        self, namespace: str, name: str, *, resource_version: str, status: Manifest
    ) -> None:
        """Replace the status of a MochiFineTune; raises StaleError when its resourceVersion is another one."""
        ...

    async def record(self, namespace: str, event: Manifest) -> None:
        """Create an Event, or refresh the one of the same name."""
        ...
