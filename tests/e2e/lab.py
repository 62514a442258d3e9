"""A real control plane with the operator installed by Helm, and what the end-to-end tests do in it."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from demo import clips, devsite, install
from demo.deadline import Deadline
from demo.kubectl import Kubectl, KubectlError
from demo.sites import SECRET, Site
from demo.steps import Steps
from devcluster import cluster
from devcluster.parts import node_name
from mochi_api import layout
from mochi_api.identity import API_VERSION, GROUP, KIND, PLURAL
from mochi_api.status import FineTuneStatus
from tests.e2e import nodes

RESOURCE = f"{PLURAL}.{GROUP}"
RUN_SECONDS = 900.0
"""Longest time one run may take on a busy machine with two cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lab:
    """The running system."""

    cluster: cluster.Cluster
    site: Site

    @property
    def kubectl(self) -> Kubectl:
        return self.site.kubectl

    @property
    def operator(self) -> Kubectl:
        """kubectl in the operator's namespace."""
        return self.kubectl.within(self.site.operator_namespace)

    def within(self, namespace: str, labels: dict[str, str] | None = None) -> Lab:
        """The same in a namespace of its own, which is made as the first was."""
        manifest = install.namespace(namespace)
        manifest["metadata"]["labels"].update(labels or {})
        kubectl = self.kubectl.within(namespace)
        kubectl.apply(manifest)
        s3 = self.cluster.s3
        kubectl.apply(install.storage_secret(SECRET, s3.access_key, s3.secret_key))
        return replace(self, site=replace(self.site, kubectl=kubectl))

    def spec(self, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """The demo at smaller size, with `changes`: dotted path -> value, None removes."""
        document = copy.deepcopy(_spec(self.site))
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            node = document
            for part in parents:
                node = node.setdefault(part, {})
            if value is None:
                node.pop(last, None)
            else:
                node[last] = value
        return document

    def apply(self, name: str, changes: dict[str, Any] | None = None, *flags: str) -> None:
        manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name},
            "spec": self.spec(changes),
        }
        self.kubectl.run("apply", *flags, "-f", "-", stdin=json.dumps(manifest))

    def status(self, name: str) -> FineTuneStatus:
        raw = self.kubectl.json("get", RESOURCE, name)
        return FineTuneStatus.model_validate(raw.get("status", {}))

    def until(
        self, name: str, holds: Callable[[FineTuneStatus], bool], what: str, seconds: float = RUN_SECONDS
    ) -> FineTuneStatus:
        """The first status of `name` for which `holds`; fails with everything known when the time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.status(name)
            if holds(status):
                return status
            if status.phase == "Failed":
                break
            time.sleep(0.5)
        raise AssertionError(f"{name}: {what} did not come\n{self.evidence(name)}")

    def succeeded(self, name: str) -> FineTuneStatus:
        return self.until(name, lambda status: status.phase == "Succeeded", "Succeeded")

    def failed(self, name: str) -> FineTuneStatus:
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            status = self.status(name)
            assert status.phase != "Succeeded", f"{name} succeeded"
            if status.phase == "Failed":
                return status
            time.sleep(0.5)
        raise AssertionError(f"{name} did not fail in time\n{self.evidence(name)}")

    def told(self, name: str, what: str, *words: str, seconds: float = 90.0) -> str:
        """The message of the condition that has all `words`; fails when none comes in time."""
        found = ""

        def said(status: FineTuneStatus) -> bool:
            nonlocal found
            messages = [item.message for item in status.conditions]
            found = next((text for text in messages if all(word in text for word in words)), "")
            return bool(found)

        self.until(name, said, f"{what} ({', '.join(words)})", seconds)
        return found

    def warned(self, name: str, *words: str, seconds: float = 60.0) -> None:
        """Wait for a Warning Event with all `words`."""
        end = time.monotonic() + seconds
        while True:
            said = [item["message"] for item in self.events(name) if item["type"] == "Warning"]
            if any(all(word in text for word in words) for text in said):
                return
            assert time.monotonic() < end, f"{name}: no Warning with {words}: {said}\n{self.evidence(name)}"
            time.sleep(0.5)

    def uid(self, name: str) -> str:
        uid: str = self.kubectl.json("get", RESOURCE, name)["metadata"]["uid"]
        return uid

    def run_uri(self, name: str) -> str:
        """Folder of everything that belongs to this run alone."""
        return layout.run_root(f"s3://{self.site.bucket.name}/", self.uid(name))

    def delete(self, name: str) -> None:
        """Delete a run whose story is told, with all its pods."""
        self.kubectl.run("delete", RESOURCE, name, "--ignore-not-found", "--timeout=180s", seconds=190)
        children = ("jobs,pytorchjobs,pods", "-l", f"{GROUP}/finetune={name}")
        self.kubectl.run("wait", "--for=delete", *children, "--timeout=180s", seconds=190)

    def pods(self, name: str, *selector: str) -> list[dict[str, Any]]:
        """The pods of a run, as the API server has them."""
        labels = ",".join([f"{GROUP}/finetune={name}", *(f"{GROUP}/{item}" for item in selector)])
        found: list[dict[str, Any]] = self.kubectl.json("get", "pods", "-l", labels)["items"]
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        found = self.kubectl.json("get", "events", f"--field-selector=involvedObject.name={name}")["items"]
        return [item for item in found if item["involvedObject"]["kind"] == KIND]

    def evidence(self, name: str) -> str:
        """What a person would look at."""
        said = []
        for kubectl, args in (
            (self.kubectl, ("describe", RESOURCE, name)),
            (self.kubectl, ("get", "jobs,pytorchjobs,pods", "-o", "wide")),
            (self.kubectl, ("logs", "-l", f"{GROUP}/finetune={name}", "--tail=25", "--prefix")),
            (self.operator, ("logs", "deployment/mochi-operator", "--tail=40")),
        ):
            try:
                said.append(kubectl.run(*args))
            except KubectlError as error:
                said.append(str(error))
        return "\n".join(said)

    def text(self, uri: str) -> str:
        """An object of the bucket."""
        return self.fetch(uri, self.cluster.dir / "fetched").read_text(encoding="utf-8")

    def fetch(self, uri: str, to: Path) -> Path:
        bucket = self.site.bucket
        bucket.get_file(bucket.key_of(uri), to)
        return to


def _spec(site: Site) -> dict[str, Any]:
    root = f"s3://{site.bucket.name}"
    return {
        "mode": "lora",
        "model": {"preset": "nano"},
        "dataset": {"source": {"s3": {"uri": f"{root}/clips/"}}},
        "storage": {
            "outputURI": f"{root}/",
            "s3": {"endpoint": site.endpoint, "pathStyle": True, "credentialsSecretName": "mochi-s3"},
        },
        "preprocessing": {"frames": 7, "width": 64, "height": 48, "videos": {"reconstructEvery": 1}},
        "training": {
            "steps": 24,
            "warmupSteps": 2,
            "learningRate": "0.005",
            "lora": {"rank": 4, "alpha": 4},
            "checkpoint": {"everySteps": 8},
        },
        "sampling": {"steps": 4, "prompts": ["a grey rabbit on a green meadow"]},
        "runPolicy": {"retryBackoff": {"initialSeconds": 1, "maxSeconds": 5}, "gracePeriodSeconds": 20},
    }


@contextmanager
def opened(root: Path, folder: Path, **config: Any) -> Iterator[Lab]:
    """The system, for as long as the context lasts; `config` is for the cluster. Only its first node is for everything."""
    steps = Steps(Console(file=StringIO()))
    with devsite.image_file(root) as images:
        wanted = cluster.Config(**{"name": "e2e", "dir": folder, "images": images, **config})
        with cluster.running(wanted) as found:
            admin = Kubectl(
                binary=str(found.kubectl), kubeconfig=found.kubeconfig, namespace="default", env=found.env()
            )
            for number in range(1, wanted.nodes):
                nodes.keep_free(admin, node_name(number))
            site = devsite.prepare(found, root, Deadline(600), steps)
            site.bucket.create()
            clips.upload(site.bucket, "clips", clips.bundled())
            yield Lab(cluster=found, site=site)
