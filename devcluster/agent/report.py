"""Tells the API server about one pod: status, events, the end of its deletion. Silent while the node plays dead."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from devcluster.agent import api as kube
from devcluster.agent import cluster, status
from devcluster.agent.containers import Container
from devcluster.agent.host import Host
from devcluster.agent.pods import Stop

_MOOT = frozenset({kube.HTTP_NOT_FOUND, kube.HTTP_CONFLICT})
"""The pod is gone, or another one has its name: the watch will say so."""


def final(pod: Mapping[str, Any]) -> bool:
    """Whether the pod's phase is one that never changes."""
    return pod.get("status", {}).get("phase") in status.FINAL


@dataclass(slots=True)
class Report:
    """What was told so far."""

    host: Host
    where: status.Address
    _sent: dict[str, Any] = field(default_factory=dict)
    _known: Mapping[str, Any] | None = None
    """The status as the API server last answered it; newer than the watch."""
    _deleted: bool = False

    def send(self, pod: Mapping[str, Any], containers: Sequence[Container], stop: Stop | None) -> None:
        """Patch the pod's status if it differs from what was sent last. Raises `ApiError` and `OSError`."""
        known = {**pod, "status": self._known or pod.get("status", {})}
        if self.host.lost() or final(known):
            return
        current = status.pod_status(known, containers, self.where, stop, time.time())
        if current == self._sent:
            return
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": current}
        answer = self._unless_moot("PATCH", cluster.pod_path(pod) + "/status", body, kube.STRATEGIC_TYPE)
        if answer is not None:
            self._sent, self._known = current, answer["status"]

    def confirm_deletion(self, pod: Mapping[str, Any]) -> None:
        """Remove the object of a pod whose containers have ended. Raises `ApiError` and `OSError`."""
        if self.host.lost() or self._deleted:
            return
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        self._unless_moot("DELETE", cluster.pod_path(pod), body, kube.JSON_TYPE)
        self._deleted = True

    def _unless_moot(self, method: str, path: str, body: Any, content_type: str) -> dict[str, Any] | None:
        try:
            return self.host.api.request(method, path, body, content_type=content_type)
        except kube.ApiError as error:
            if error.status in _MOOT:
                return None
            raise

    def event(self, pod: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        """Post an Event; best effort."""
        if not self.host.lost():
            cluster.post_event(self.host.api, pod, self.host.node_name, kind, reason, message)
