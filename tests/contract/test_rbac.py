"""The chart grants the calls the operator makes, and no other."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from mochi_api.heartbeat import Heartbeat
from mochi_operator import apply
from mochi_operator.decide import decide
from mochi_operator.handlers import WATCHED
from mochi_operator.prober import Prober
from tests.operator.world import NAMESPACE, World

Right = tuple[str, str, str]
"""Verb, group, resource."""


def granted(project: Path) -> set[Right]:
    """Rights of the chart; the block of rules is plain YAML in both kinds of role."""
    text = (project / "helm/mochi-operator/templates/rbac.yaml").read_text()
    block = re.search(r'define "mochi-operator.rules" -}}\n(.*?){{- end', text, re.DOTALL)
    assert block is not None, "the chart's rules are in the template mochi-operator.rules"
    return {
        (verb, group, resource)
        for rule in yaml.safe_load(block[1])
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def watched() -> set[Right]:
    """What Kopf does by itself."""
    return {(verb, kind.group, kind.plural) for kind in WATCHED for verb in ("list", "watch")}


def _foreign(kind: str, name: str, owner: dict | None = None) -> dict:
    metadata = {"name": name, "namespace": NAMESPACE, **({"ownerReferences": [owner]} if owner else {})}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


class _NoAnswer:
    """Pods whose addresses cannot be reached, so that their logs are read."""

    async def ask(self, address: str) -> Heartbeat | None:
        return None


async def _calls_of_a_life() -> set[Right]:
    """A run that meets every kind of trouble at least once."""
    world = World()
    prober = Prober(
        _NoAnswer(), world.cluster, lambda: world.clock.now.timestamp(), lambda key: None, told_seconds=30
    )
    world.watched_by(prober)
    for kind, name in (("Job", "dissolve-check"), ("PyTorchJob", "dissolve-a1")):
        world.cluster.put(_foreign(kind, name))
    owner = {"kind": "MochiFineTune", "name": "dissolve", "uid": "gone", "controller": True}
    world.cluster.put(_foreign("ConfigMap", "dissolve-check-run", owner))
    for _ in range(2):
        await world.turn()
    del world.cluster.objects["Job", NAMESPACE, "dissolve-check"]
    await world.turn()
    world.clock.advance(11)
    await world.turn()  # a Job without pods: its Events are read
    await world.until(lambda world: world.condition("Accepted")["reason"] == "NameConflict")
    del world.cluster.objects["PyTorchJob", NAMESPACE, "dissolve-a1"]
    await world.until(lambda world: world.phase == "Training")
    for _ in range(5):
        await asyncio.sleep(0)  # the prober has its turn
    await prober.close()
    world.submit(uid="second")
    world.restart()
    await world.until(lambda world: world.phase == "Succeeded")
    snapshot = await world.gatherer.snapshot(world.key)
    assert snapshot is not None
    await apply.finish(world.cluster, snapshot, decide(snapshot, world.backend))
    return {*world.cluster.calls, ("list", "mochi.finetune.dev", "mochifinetunes")}


async def test_the_chart_grants_just_what_the_operator_does(project: Path) -> None:
    assert granted(project) == await _calls_of_a_life() | watched()


def test_no_right_is_a_wildcard(project: Path) -> None:
    assert all("*" not in right for right in granted(project))


@pytest.mark.parametrize("resource", ["secrets", "pods/exec", "namespaces", "customresourcedefinitions"])
def test_the_operator_may_not_touch(project: Path, resource: str) -> None:
    assert resource not in {right[2] for right in granted(project)}
