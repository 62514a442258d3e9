"""Every silence ends: what keeps a run from going on for long is in its status, in words that name it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mochi_api import identity
from tests.simulation.controllers import children
from tests.simulation.laws import finished
from tests.simulation.store import Object, ended, label
from tests.simulation.world import World

LOOK_SECONDS = 10.0
LONGEST_SECONDS = 100.0
"""A resync, the patience with a young child, and a call or two."""
_WORDS = {"quota": "exceeded quota", "webhook": "failed calling webhook", "policy": "policy"}
_POD_WORDS = {**_WORDS, "policy": "PodSecurity"}
"""What the server says of a pod; of anything else it names the policy."""

Trouble = tuple[str, str]
"""What is in the way of which object."""


class Silences:
    """Looks now and then at what is really in the way of each run, and at what its status says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._since: dict[tuple[str, Trouble], float] = {}
        """When it was told last, or the operator could first have told it."""

    def look(self) -> None:
        """Look at all runs, and come again."""
        kernel = self._world.kernel
        # For an operator whose clock is behind, what happened just now has not happened yet.
        longest = LONGEST_SECONDS + max(0.0, -self._world.skew)
        found = {}
        for run in self._world.runs():
            if finished(run):
                continue
            uid, said = run["metadata"]["uid"], json.dumps(run.get("status") or {})
            for trouble, words in self._troubles(run):
                since = self._since.get((uid, trouble), kernel.seconds)
                if words in said:
                    since = (
                        kernel.seconds
                    )  # told; a newer word, of another trouble, may stand there for a while
                found[uid, trouble] = since
                if kernel.seconds - since > longest:
                    text = f"{trouble[1]}: {trouble[0]} for {kernel.seconds - since:.0f} s, and the status has no word of it"
                    kernel.violate("every silence ends", f"{run['metadata']['name']}: {text}")
        self._since = found if self._could_tell() else {}
        kernel.later(LOOK_SECONDS, self.look)

    def _could_tell(self) -> bool:
        """Whether an operator runs, and is let."""
        manners = self._world.server.manners
        return bool(self._world.alive()) and manners.error_rate < 0.02 and manners.slow_rate < 0.05

    def _troubles(self, run: Object) -> Iterator[tuple[Trouble, str]]:
        """What is in the way, and a word that must be said of it."""
        store, server = self._world.store, self._world.server
        uid, name = run["metadata"]["uid"], run["metadata"]["name"]
        current = [child for child in children(store, uid) if _is_current(run, child)]
        for child in current:
            yield from self._of_child(child)
        for refused, (_, last, how) in server.refused.items():
            if not current and refused.startswith(f"{name}-") and self._world.kernel.seconds - last < 20:
                yield (f"{how} for itself", refused), _WORDS[how]

    def _of_child(self, child: Object) -> Iterator[tuple[Trouble, str]]:
        name = child["metadata"]["name"]
        if child["spec"].get("suspend") or (child["spec"].get("runPolicy") or {}).get("suspend"):
            yield ("suspended", name), "suspended"
            return
        pods = self._world.store.owned("Pod", child["metadata"]["uid"])
        if not pods:
            refusal = self._world.admission.refusal
            controller = self._world.jobs if child["kind"] == "Job" else self._world.training_operator
            told = any(
                event["involvedObject"]["uid"] == child["metadata"]["uid"]
                for event in self._world.store.all("Event")
            )
            if controller.down and told:
                return  # the last that it said is all that anybody can know
            if controller.down:
                yield ("controller", name), "no pod is made"
            elif refusal:
                yield (refusal, name), _POD_WORDS[refusal]
        for pod in pods:
            yield from _of_pod(pod)


def _of_pod(pod: Object) -> Iterator[tuple[Trouble, str]]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if "deletionTimestamp" in pod["metadata"] or status.get("phase") != "Pending":
        return
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable":
            yield ("unschedulable", name), "Insufficient"
    for entry in status.get("containerStatuses") or ():
        reason = entry["state"].get("waiting", {}).get("reason", "")
        if "ImagePull" in reason:
            yield ("image", name), "registry"
        elif reason == "ContainerCreating":
            yield (
                ("volume", name),
                "does not start on",
            )  # which of several in one plight is named is all the same


def _is_current(run: Object, child: Object) -> bool:
    """Whether the status calls this child's attempt the one that runs."""
    if ended(child) or "deletionTimestamp" in child["metadata"]:
        return False
    status, step = run.get("status") or {}, label(child, identity.LABEL_STAGE)
    stage: dict[str, Any] = next((item for item in status.get("stages") or () if item["name"] == step), {})
    entries = (status if step == "train" else stage).get("attempts") or [{}]
    number = str(entries[0].get("number", ""))
    return number == label(child, identity.LABEL_ATTEMPT) and not entries[0].get("reason")
