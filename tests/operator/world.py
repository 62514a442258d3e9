"""A cluster with one run in it, its clock, and an operator that can be restarted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from mochi_api import identity
from mochi_api.heartbeat import Heartbeat
from mochi_api.outcomes import Outcome, Reason
from mochi_operator.backend.pytorchjob import PyTorchJobBackend
from mochi_operator.cluster import FINETUNES, Manifest
from mochi_operator.gather import Gatherer
from mochi_operator.prober import Lane, SignsOfLife, Target
from mochi_operator.reconcile import Pass, reconcile
from mochi_operator.settings import Settings
from mochi_operator.snapshot import Reading
from tests.operator.fake_cluster import Clock, FakeCluster
from tests.operator.surroundings import ARTIFACT, NAMESPACE, End, Script, Surroundings, well

__all__ = [
    "ARTIFACT",
    "IMAGE",
    "KEY",
    "NAME",
    "NAMESPACE",
    "End",
    "World",
    "failing",
    "full",
    "heartbeat",
    "lora",
    "well",
]

NAME = "dissolve"
KEY = (NAMESPACE, NAME)
IMAGE = "registry.example/mochi-trainer:1"


def failing(reason: Reason, code: int, *, until: int, message: str = "", step: str = "train") -> Script:
    """A step fails in every attempt below `until`."""

    def script(stage: str, attempt: int, rank: int) -> End | None:
        if stage == step and attempt < until:
            return End(code, Outcome(reason=reason, message=message or f"attempt {attempt}", step=4))
        return well(stage, attempt, rank)

    return script


class FakeSigns:
    """Signs of life of the pods that a run is aimed at: `answer`, and of one beside the training `beside`, or silence,
    counted anew at every pass."""

    def __init__(self, clock: Clock) -> None:
        self.answer: Heartbeat | None = None
        self.beside: Heartbeat | None = None
        self.log_readable = False
        self.frozen = False
        """No question is asked meanwhile."""
        self.targets: list[Target] = []
        self._clock = clock
        self._target: dict[Lane, Target | None] = {}
        self._readings: dict[Lane, Reading | None] = {}
        self._came: dict[Lane, datetime] = {}

    def aim(self, key: tuple[str, str], target: Target | None, lane: Lane = "main") -> None:
        if target != self._target.get(lane):
            self._readings[lane] = None if target is None else Reading(pod_uid=target.uid)
        if target is not None and target not in self.targets:
            self.targets.append(target)
        self._target[lane] = target

    def reading(self, key: tuple[str, str], lane: Lane = "main") -> Reading | None:
        before = self._readings.get(lane)
        if before is None:
            return None
        if self.frozen:
            age = (self._clock.now - self._came[lane]).total_seconds()
            return replace(before, age_seconds=age)
        self._came[lane] = self._clock.now
        answer = self.answer if lane == "main" else self.beside
        if answer is None:
            found = replace(before, silent=before.silent + 1, log_readable=self.log_readable)
        else:
            found = Reading(pod_uid=before.pod_uid, heartbeat=answer)
        self._readings[lane] = found
        return found


class World:
    """A cluster with one MochiFineTune, its clock, and an operator that can be restarted."""

    def __init__(self, spec: dict[str, Any] | None = None, *, name: str = NAME) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock)
        self.signs = FakeSigns(self.clock)
        self.settings = Settings(trainer_image=IMAGE, progress_seconds=30)
        self.around = Surroundings(self.cluster, self.clock)
        self.key = (NAMESPACE, name)
        self.backend = PyTorchJobBackend()
        self.submit(spec)
        self.restart()

    def submit(self, spec: dict[str, Any] | None = None, uid: str = "run-uid") -> Manifest:
        """`kubectl apply`."""
        return self.cluster.put(
            {
                "apiVersion": identity.API_VERSION,
                "kind": identity.KIND,
                "metadata": {"name": self.key[1], "namespace": NAMESPACE, "uid": uid},
                "spec": lora() if spec is None else spec,
            }
        )

    def restart(self) -> None:
        """A new operator process: what the old one remembered is gone."""
        self.watched_by(self.signs)

    def watched_by(self, signs: SignsOfLife) -> None:
        """A new operator process that learns of signs of life from these."""
        self.gatherer = Gatherer(
            self.cluster, self.backend, signs, self.settings, self.clock, self.clock.steady
        )

    async def turn(self) -> Pass:
        """One pass of the operator."""
        return await reconcile(self.cluster, self.gatherer, self.backend, self.key)

    async def until(self, condition: Callable[[World], bool], *, turns: int = 60, seconds: float = 5) -> None:
        """Let operator and cluster take turns until it is so."""
        for _ in range(turns):
            await self.turn()
            if condition(self):
                return
            self.step()
            self.clock.advance(seconds)
        raise AssertionError(f"it did not come to that within {turns} turns; the phase is {self.phase}")

    @property
    def run(self) -> Manifest:
        """The MochiFineTune."""
        return self.cluster.one(FINETUNES.name, self.key[1])

    @property
    def status(self) -> dict[str, Any]:
        """Its status."""
        return self.run.get("status") or {}

    @property
    def phase(self) -> str:
        """Its phase."""
        return self.status.get("phase", "")

    def condition(self, kind: str) -> dict[str, Any]:
        """One of its conditions."""
        return next(item for item in self.status["conditions"] if item["type"] == kind)

    def pods(self, job: str) -> list[Manifest]:
        """Pods of a Job or a PyTorchJob, in the order of their ranks."""
        return self.around.pods(job)

    def step(self) -> None:
        """Everybody but the operator does one thing."""
        self.around.step()

    def end(self, pod: Manifest, end: End) -> None:
        """The container of a pod ends."""
        self.around.end(pod, end)

    @property
    def script(self) -> Script:
        """How pods end."""
        return self.around.script

    @script.setter
    def script(self, script: Script) -> None:
        self.around.script = script

    def attempts(self, step: str) -> list[str]:
        """Why the attempts of a step have ended, oldest first; empty for one that runs."""
        if step == "train":
            found = self.status["attempts"]
        else:
            found = next(item for item in self.status["stages"] if item["name"] == step)["attempts"]
        return [item["reason"] for item in reversed(found)]


def lora(**sections: Any) -> dict[str, Any]:
    """The spec of a small LoRA run, as the user writes it."""
    return {
        "mode": "lora",
        "model": {"preset": "nano"},
        "dataset": {"source": {"s3": {"uri": "s3://clips/dissolve/"}}},
        "storage": {"outputURI": "s3://runs/dissolve/"},
        "preprocessing": {"frames": 7, "width": 64, "height": 64},
        "training": {"steps": 20},
        **sections,
    }


def full(**sections: Any) -> dict[str, Any]:
    """The same with all weights, in two pods."""
    return lora(**{"mode": "full", "workers": {"replicas": 2}, **sections})


def with_settings(world: World, **changes: Any) -> None:
    """Restart the operator with other settings."""
    world.settings = replace(world.settings, **changes)
    world.restart()


def heartbeat(**changes: Any) -> Heartbeat:
    """A sign of life of a training that goes well."""
    known = {
        "attempt": 1, "activity": "training", "quiet_seconds": 0, "done": 5, "total": 20, "loss": 0.5,
        "grad_norm": 1.25, "step_seconds": 2.0, "step_age_seconds": 0,
    }  # fmt: skip
    return Heartbeat.model_validate({**known, **changes})
