"""A CRD with stricter rules comes while a run goes on that breaks them: it goes on, and can still be given other limits."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.lab import RESOURCE, Lab

BROKEN_NOW = {"gpuResourceName": "requests.nvidia.com/gpu", "shmSize": "64"}
"""A rule of the spec, and the shape of a text."""


def _without_rules(schema: dict[str, Any]) -> dict[str, Any]:
    lax = {key: value for key, value in schema.items() if key != "x-kubernetes-validations"}
    if "properties" in lax:
        lax["properties"] = {name: _without_rules(child) for name, child in lax["properties"].items()}
    if "items" in lax:
        lax["items"] = _without_rules(lax["items"])
    return lax


def test_an_accepted_run_goes_on_under_rules_that_it_breaks(lab: Lab, project: Path) -> None:
    strict = yaml.safe_load((project / "crds" / "mochifinetunes.yaml").read_text())
    lax = copy.deepcopy(strict)
    version = lax["spec"]["versions"][0]["schema"]
    version["openAPIV3Schema"] = _without_rules(version["openAPIV3Schema"])
    lab.apply("stricter")
    lab.until("stricter", lambda status: status.phase == "Preprocessing", "Preprocessing")
    lab.kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(lax))
    try:
        lab.kubectl.run(
            "patch", RESOURCE, "stricter", "--type=merge", "-p", json.dumps({"spec": {"workers": BROKEN_NOW}})
        )
    finally:
        lab.kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(strict))
    limit = {"spec": {"runPolicy": {"backoffLimit": 7}}}
    lab.kubectl.run("patch", RESOURCE, "stricter", "--type=merge", "-p", json.dumps(limit))
    lab.kubectl.run("annotate", RESOURCE, "stricter", "mochi.finetune.dev/sample-now=1")
    lab.succeeded("stricter")
    lab.delete("stricter")
