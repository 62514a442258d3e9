"""Admission webhooks: one that injects a sidecar, as a service mesh does, and one that does not answer."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from demo import images
from demo.kubectl import Kubectl
from devcluster.agent.server import self_signed
from mochi_api.identity import LABEL_STAGE

Manifest = dict[str, Any]

HOST = "127.0.0.1"
DEAD = f"https://{HOST}:9/"
"""Nobody listens there."""
SIDECAR = "istio-proxy"
NATIVE_STAGES = ("captions", "sample")
"""Steps whose pods get the sidecar as an init container that goes on; the others get it first among the containers."""


def sidecar() -> Manifest:
    """A proxy that never ends by itself."""
    return {
        "name": SIDECAR,
        "image": images.TRAINER,
        "command": ["sleep", "3600"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def injection(pod: Manifest) -> list[Manifest]:
    """The JSON patch that puts the sidecar into a pod."""
    if pod["metadata"].get("labels", {}).get(LABEL_STAGE) in NATIVE_STAGES:
        native = {**sidecar(), "restartPolicy": "Always"}
        return [{"op": "add", "path": "/spec/initContainers", "value": [native]}]
    return [{"op": "add", "path": "/spec/containers/0", "value": sidecar()}]


@contextmanager
def mesh(kubectl: Kubectl, folder: Path) -> Iterator[None]:
    """Every pod that is made in the namespace of `kubectl` gets a sidecar."""
    certificate, key = self_signed(folder, HOST)
    with _serving(certificate, key, injection) as port:
        client = {
            "url": f"https://{HOST}:{port}/",
            "caBundle": base64.b64encode(certificate.read_bytes()).decode(),
        }
        rule = _rule("", "v1", "pods")
        with _configured(kubectl, "MutatingWebhookConfiguration", f"mesh-{kubectl.namespace}", client, rule):
            yield


@contextmanager
def outage(kubectl: Kubectl, name: str) -> Iterator[None]:
    """A policy for PyTorchJobs of the namespace whose server is down."""
    rule = _rule("kubeflow.org", "v1", "pytorchjobs")
    with _configured(kubectl, "ValidatingWebhookConfiguration", name, {"url": DEAD}, rule):
        yield


def _rule(group: str, version: str, resource: str) -> Manifest:
    return {"apiGroups": [group], "apiVersions": [version], "operations": ["CREATE"], "resources": [resource]}


@contextmanager
def _configured(kubectl: Kubectl, kind: str, name: str, client: Manifest, rule: Manifest) -> Iterator[None]:
    webhook = {
        "name": f"{name}.e2e.test",
        "admissionReviewVersions": ["v1"],
        "clientConfig": client,
        "failurePolicy": "Fail",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}},
        "rules": [rule],
        "sideEffects": "None",
        "timeoutSeconds": 5,
    }
    group = "admissionregistration.k8s.io/v1"
    kubectl.apply({"apiVersion": group, "kind": kind, "metadata": {"name": name}, "webhooks": [webhook]})
    try:
        yield
    finally:
        kubectl.run("delete", kind, name)


@contextmanager
def _serving(certificate: Path, key: Path, patch: Callable[[Manifest], list[Manifest]]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            changes = json.dumps(patch(review["request"]["object"])).encode()
            answer = {
                "uid": review["request"]["uid"],
                "allowed": True,
                "patchType": "JSONPatch",
                "patch": base64.b64encode(changes).decode(),
            }
            body = json.dumps({**review, "request": None, "response": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The API server's log is enough."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
