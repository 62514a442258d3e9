"""A namespace of a running cluster, and what tests do in it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from devcluster import cluster
from devcluster.agent.api import Api, read_kubeconfig

WAIT = 60.0
"""Seconds for what takes a moment, on a machine that has other things to do."""
PODS = "/api/v1/namespaces/{}/pods"


class Namespace:
    """A namespace of one test."""

    def __init__(self, running: cluster.Cluster, name: str) -> None:
        self.name = name
        self.running = running
        self.api = Api(read_kubeconfig(running.kubeconfig))

    def apply(self, *documents: dict[str, Any]) -> None:
        bundle = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.kubectl("apply", "-f", "-", document=bundle)

    def kubectl(self, *arguments: str, document: object = None, check: bool = True) -> str:
        done = subprocess.run(
            [self.running.kubectl, "-n", self.name, *arguments],
            env=self.running.env(),
            input=None if document is None else json.dumps(document),
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if check else done.stdout + done.stderr

    def pods(self, label: str = "") -> list[dict[str, Any]]:
        query = {"labelSelector": label} if label else None
        return self.api.get(PODS.format(self.name), query)["items"]

    def pod(self, name: str) -> dict[str, Any] | None:
        return self.api.find(f"{PODS.format(self.name)}/{name}")

    def wait(self, what: str, condition: Callable[[], Any], limit: float = WAIT) -> Any:
        until = time.monotonic() + limit
        while not (found := condition()):
            assert time.monotonic() < until, (
                f"{what} within {limit:.0f} s; pods: {self.kubectl('get', 'pods')}"
            )
            time.sleep(0.1)
        return found

    def wait_phase(self, name: str, *phases: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            found = self.pod(name)
            return found if found and found["status"].get("phase") in phases else None

        return self.wait(f"pod {name} is {phases}", reached)


def images() -> dict[str, Any]:
    """The images that pods of tests run."""
    venv = str(Path(sys.executable).parent)
    python = {"entrypoint": [sys.executable, "-u"], "env": {"PATH": f"{venv}:/usr/bin:/bin"}}
    hidden = [folder for folder in (sys.prefix, sys.base_prefix) if Path(folder).is_relative_to("/tmp")]
    return {
        "test/shell": {"entrypoint": [], "env": {"PATH": "/usr/bin:/bin"}},
        "test/python": {**python, "visible": hidden},  # a checkout below /tmp, of which a pod has its own
    }


@contextlib.contextmanager
def opened(running: cluster.Cluster, test: str) -> Iterator[Namespace]:
    """A new namespace named after a test; its pods end with the context."""
    name = test.removeprefix("test_").replace("_", "-")[:50].strip("-")
    table = running.dir / "images.json"
    table.write_text(json.dumps(json.loads(table.read_text()) | images()))
    made = Namespace(running, name)
    made.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    made.wait("the default service account", lambda: made.api.find(account))
    try:
        yield made
    finally:
        made.api.request("DELETE", f"/api/v1/namespaces/{name}")
        for item in made.pods():
            made.api.request(
                "DELETE", f"{PODS.format(name)}/{item['metadata']['name']}", {"gracePeriodSeconds": 0}
            )


def pod(name: str, script: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "test/shell:1", "command": ["sh", "-c", script]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"restartPolicy": "Never", "containers": [container | spec.pop("container", {})], **spec},
    }
