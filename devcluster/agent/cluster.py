"""What the agent reads of a pod's namespace and writes about a pod: paths, decoding, tokens, events."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from devcluster.agent import api as kube

log = logging.getLogger(__name__)
TOKEN_SECONDS = 3607


def pod_path(pod: Mapping[str, Any]) -> str:
    """API path of a pod."""
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


class Namespace:
    """The objects of one namespace that its pods refer to."""

    def __init__(self, api: kube.Api, name: str) -> None:
        self.api = api
        self.name = name

    def _find(self, plural: str, name: str) -> dict[str, Any] | None:
        return self.api.find(f"/api/v1/namespaces/{self.name}/{plural}/{name}")

    def config_map(self, name: str) -> dict[str, bytes] | None:
        """Content of a ConfigMap; None when it does not exist."""
        found = self._find("configmaps", name)
        if found is None:
            return None
        text = {key: value.encode() for key, value in (found.get("data") or {}).items()}
        return text | {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}

    def secret(self, name: str) -> dict[str, bytes] | None:
        """Content of a Secret; None when it does not exist."""
        found = self._find("secrets", name)
        if found is None:
            return None
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}

    def config_map_text(self, name: str) -> dict[str, str] | None:
        """As `config_map`, for environment variables."""
        return as_text(self.config_map(name))

    def secret_text(self, name: str) -> dict[str, str] | None:
        """As `secret`, for environment variables."""
        return as_text(self.secret(name))

    def claim_path(self, claim: str) -> str | None:
        """The host folder behind a bound claim whose volume is of type hostPath or local; None when there is none."""
        found = self._find("persistentvolumeclaims", claim)
        volume = (found or {}).get("spec", {}).get("volumeName")
        if not volume:
            return None
        spec = (self.api.find(f"/api/v1/persistentvolumes/{volume}") or {}).get("spec", {})
        source = spec.get("hostPath") or spec.get("local") or {}
        return source.get("path")

    def token(self, pod: Mapping[str, Any], audience: str | None, seconds: int) -> bytes:
        """A service account token bound to `pod`."""
        account = pod["spec"].get("serviceAccountName") or "default"
        metadata = pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        spec: dict[str, Any] = {"expirationSeconds": seconds, "boundObjectRef": bound}
        if audience:
            spec["audiences"] = [audience]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{self.name}/serviceaccounts/{account}/token"
        return str(self.api.request("POST", path, body)["status"]["token"]).encode()


def as_text(data: Mapping[str, bytes] | None) -> dict[str, str] | None:
    """Values as text; what is not UTF-8 is replaced."""
    return None if data is None else {key: value.decode(errors="replace") for key, value in data.items()}


def post_event(
    api: kube.Api, pod: Mapping[str, Any], node: str, kind: str, reason: str, message: str
) -> None:
    """Tell the user something about a pod; best effort."""
    metadata = pod["metadata"]
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name'][:200]}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": message[:1000],
        "source": {"component": "kubelet", "host": node},
        "reportingComponent": "kubelet",
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        api.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", event)
    except (kube.ApiError, OSError) as error:
        log.info(
            "event %s of pod %s/%s is not posted: %s", reason, metadata["namespace"], metadata["name"], error
        )
