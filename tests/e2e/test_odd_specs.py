"""Objects from under an older, looser CRD whose values have other types: said in their status, mended there, never ended."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import cluster

RUNS = "mochifinetunes.mochi.finetune.dev"
PLACE = "odd"
LIMIT_SECONDS = 90.0

ODD: dict[str, tuple[str, Any, str]] = {
    "text-for-number": ("training.steps", "many", "training.steps: "),
    "list-for-object": ("training", [1], "training: "),
    "text-for-list": ("sampling.prompts", "x", "sampling.prompts: "),
    "object-for-text": ("model.source", {"s3": {"uri": {"a": "b"}}}, "model.source.s3.uri: "),
    "list-for-map": ("workers.podTemplate.nodeSelector", ["a"], "workers.podTemplate.nodeSelector: "),
    "number-for-item": ("sampling.prompts", [5], "sampling.prompts.0: "),
    "float": ("training.steps", 1.5, "training.steps: "),
    "huge": ("training.steps", 10**30, "training.steps: "),
    "missing": ("storage", None, "storage: field required"),
    "choice": ("mode", "dora", "mode: "),
    "policy": ("runPolicy.backoffLimit", "x", "runPolicy.backoffLimit: "),
    "whole": ("", "x", "document: "),
}
"""Field, value, and how the message begins."""


class Place:
    """A cluster with an operator of this very code, and no image for its pods."""

    def __init__(self, plane: cluster.Cluster, project: Path) -> None:
        self._plane = plane
        self._strict = yaml.safe_load((project / "crds" / "mochifinetunes.yaml").read_text())
        self._spec = yaml.safe_load((project / "examples" / "lora-nano.yaml").read_text())["spec"]

    def kubectl(self, *args: str, stdin: str = "", check: bool = True) -> str:
        """What kubectl prints, its errors included."""
        done = subprocess.run(
            [str(self._plane.kubectl), *args], env=self._plane.env(), input=stdin, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout + done.stderr

    def crd(self, *, loose: bool) -> None:
        """Apply the CRD, or one that takes any spec."""
        document = copy.deepcopy(self._strict)
        if loose:
            anything = {"x-kubernetes-preserve-unknown-fields": True}
            schema = {"type": "object", "properties": {"spec": dict(anything)}, **anything}
            document["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(document))

    def document(self, name: str, field: str = "", value: Any = None) -> str:
        """A run with one field replaced; the whole spec where no field is named."""
        spec: Any = copy.deepcopy(self._spec)
        if field:
            *above, last = field.split(".")
            node = spec
            for part in above:
                node = node.setdefault(part, {})
            node[last] = value
        meta = {"name": name, "namespace": PLACE}
        kind = {"apiVersion": "mochi.finetune.dev/v1alpha1", "kind": "MochiFineTune", "metadata": meta}
        return json.dumps({**kind, "spec": value if value is not None and not field else spec})

    def status(self, name: str) -> dict[str, Any]:
        """The status of a run; empty when it has none."""
        run = json.loads(self.kubectl("get", RUNS, name, "-n", PLACE, "-o", "json"))
        return dict(run.get("status") or {})

    def until(self, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status that holds."""
        end = time.monotonic() + LIMIT_SECONDS
        while not holds(status := self.status(name)):
            assert time.monotonic() < end, f"{name}: {status}"
            time.sleep(0.3)
        return status

    def patch(self, name: str, spec: dict[str, Any], *, check: bool = True) -> str:
        """Change fields of a spec."""
        body = json.dumps({"spec": spec})
        return self.kubectl("patch", RUNS, name, "-n", PLACE, "--type=merge", "-p", body, check=check)


@pytest.fixture(scope="module")
def place(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Odd runs are made under a loose CRD, one good run is at work, and then the CRD is upgraded."""
    folder = tmp_path_factory.mktemp("odd")
    with cluster.running(cluster.Config(name="odd", dir=folder / "cluster")) as plane:
        found = Place(plane, project)
        found.crd(loose=True)
        found.kubectl("create", "namespace", PLACE)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {
            **os.environ, "KUBECONFIG": str(plane.kubeconfig), "MOCHI_TRAINER_IMAGE": "trainer:1", "MOCHI_POD_IP": "127.0.0.1",
            "MOCHI_HTTP_PORT": str(port), "MOCHI_RESYNC_SECONDS": "2",
        }  # fmt: skip
        found.kubectl("wait", "--for=condition=Established", f"crd/{RUNS}")
        for name, (field, value, _) in ODD.items():
            found.kubectl("create", "-f", "-", stdin=found.document(name, field, value))
        found.kubectl(
            "create", "-f", "-", stdin=found.document("item", "workers.env", [{"name": 5, "value": "x"}])
        )
        found.crd(loose=False)
        found.kubectl("create", "-f", "-", stdin=found.document("good"))
        with (folder / "operator.log").open("w") as log:
            operator = subprocess.Popen(
                [sys.executable, "-m", "mochi_operator"], env=environment, stdout=log, stderr=log
            )
            try:
                yield found
            finally:
                operator.terminate()
                operator.wait(timeout=30)


@pytest.mark.parametrize("name", ODD)
def test_a_value_of_another_type_is_said_in_the_status(place: Place, name: str) -> None:
    status = place.until(name, lambda status: bool(status.get("message")))
    assert status["phase"] == "Failed"
    assert status["message"].startswith(ODD[name][2])
    accepted = next(item for item in status["conditions"] if item["type"] == "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert "correct the field named in the message" in accepted["message"]


def test_what_no_status_can_be_written_into_has_an_event(place: Place) -> None:
    """The API server tries the rules on items of lists at every write."""
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        events = place.kubectl(
            "get", "events", "-n", PLACE, "--field-selector=involvedObject.name=item", "-o", "wide"
        )
        if "InvalidSpec" in events and "StatusRefused" in events:
            break
        assert time.monotonic() < end, events
        time.sleep(0.5)
    assert "workers.env.0.name: input should be a valid string, got 5" in events


def test_a_refused_run_goes_on_when_its_spec_is_mended(place: Place) -> None:
    for name in ("text-for-number", "choice", "whole"):
        place.until(name, lambda status: bool(status.get("message")))
    place.patch("text-for-number", {"training": {"steps": 301}})
    place.patch("choice", {"mode": "lora"})
    place.kubectl("replace", "-f", "-", stdin=place.document("whole"))
    for name in ("text-for-number", "choice", "whole"):
        status = place.until(name, lambda status: "resolved" in status)
        assert status["phase"] == "Preprocessing"
    said = place.patch("choice", {"training": {"steps": 302}}, check=False)
    assert "spec.training is immutable" in said, "it is accepted now"


def test_a_run_at_work_is_not_touched_and_says_what_is_wrong(place: Place) -> None:
    place.until("good", lambda status: "resolved" in status)
    jobs = place.kubectl(
        "get", "jobs", "-n", PLACE, "-o", "jsonpath={.items[?(@.metadata.name=='good-check')].metadata.uid}"
    )
    assert jobs
    assert "spec.training is immutable" in place.patch("good", {"training": {"steps": 302}}, check=False)
    place.crd(loose=True)
    try:
        end = time.monotonic() + LIMIT_SECONDS
        while (
            "immutable" in (said := place.patch("good", {"training": {"steps": "many"}}, check=False))
            or "must be" in said
        ):
            assert time.monotonic() < end, said
            time.sleep(0.3)
    finally:
        place.crd(loose=False)
    status = place.until("good", lambda status: "cannot read the spec" in str(status.get("message")))
    assert "training.steps: " in status["message"]
    assert status["phase"] == "Preprocessing"
    assert "resolved" in status
    time.sleep(3)
    again = place.kubectl(
        "get", "jobs", "-n", PLACE, "-o", "jsonpath={.items[?(@.metadata.name=='good-check')].metadata.uid}"
    )
    assert again == jobs
    place.patch("good", {"training": {"steps": 300}})
    place.until("good", lambda status: "cannot read the spec" not in str(status.get("message")))
