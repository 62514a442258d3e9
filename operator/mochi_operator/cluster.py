"""The edge to the Kubernetes API: the kinds the operator touches, the calls it makes, and the errors they raise.

```
ClusterError
├── NotServedError       the kind is not installed
├── AlreadyExistsError   the name is taken
├── StaleError           the object changed since it was read
├── RefusedError         the API server will not have the object; `cause` says who has to act
└── UnavailableError     no answer in time, or a server error: try again, not before `retry_after`
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

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


Cause = Literal["invalid", "quota", "admission", "forbidden"]
"""Why the API server refuses a request, by who has to act: `invalid`: the object itself is wrong; `quota`: a
ResourceQuota is used up; `admission`: a policy, a webhook, a LimitRange or the end of the namespace forbids it;
`forbidden`: the operator lacks the right."""


class RefusedError(ClusterError):
    """The API server refuses the request."""

    def __init__(self, words: str, *, cause: Cause, code: int, reason: str = "") -> None:
        super().__init__(words)
        self.words = words
        """The server's own sentence."""
        self.cause = cause
        """Who has to act."""
        self.code = code
        """HTTP status."""
        self.reason = reason
        """`reason` of the `metav1.Status`, such as Invalid or Forbidden; empty when there is none."""

    @property
    def final(self) -> bool:
        """True when the object itself is at fault, so that trying again cannot help."""
        return self.code in (400, 413, 422)


class UnavailableError(ClusterError):
    """The API server did not answer in time or had an error of its own."""

    def __init__(self, message: str, *, words: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.words = words or message
        """The server's own sentence; ours where it said nothing."""
        self.retry_after = retry_after
        """Seconds after which the server asks to be called again; None when it does not say."""


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

    async def log(
        self, namespace: str, pod: str, *, container: str, since_seconds: int, limit_bytes: int
    ) -> str | None:
        """The last lines of a container's log, at most `limit_bytes` of them, none older than `since_seconds`.

        None when nothing can be read: no such pod or container, one that has not started, or a kubelet that does not
        answer in time. Empty when the container was silent. Raises RefusedError without the right to read logs.
        """
        ...
