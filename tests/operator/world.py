"""The rest of the cluster: Job controller, training operator and kubelets, one step at a time; and the operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mochi_api import identity
from mochi_api.outcomes import CheckResult, Outcome, Reason, SampleResult, StageResult, TrainingResult
from mochi_api.heartbeat import Heartbeat
from mochi_operator import observe
from mochi_operator.backend.pytorchjob import PyTorchJobBackend
from mochi_operator.cluster import FINETUNES, Manifest
from mochi_operator.gather import Gatherer
from mochi_operator.prober import Target
from mochi_operator.reconcile import Pass, reconcile
from mochi_operator.settings import Settings
from mochi_operator.snapshot import Reading
from mochi_operator.timestamps import render
from tests.operator.fake_cluster import Clock, FakeCluster

NAMESPACE = "videos"
NAME = "dissolve"
KEY = (NAMESPACE, NAME)
IMAGE = "registry.example/mochi-trainer:1"
ARTIFACT = "s3://runs/dissolve/lora.safetensors"


@dataclass(frozen=True)
class End:
    """How a container ends."""

    code: int = 0
    outcome: Outcome | None = None
    terminated_reason: str = ""


Script = Callable[[str, int, int], End | None]
"""From stage, attempt and rank to the end of the pod; None while it runs on."""


def well(stage: str, attempt: int, rank: int) -> End:
    """Everything goes well."""
    result = Outcome(reason=Reason.COMPLETED, rank=rank)
    if stage == "train":
        training = TrainingResult(
            artifactURI=ARTIFACT, sha256="ab", size_bytes=7, final_step=20, final_loss=0.25,
            checkpointURI="s3://runs/dissolve/checkpoints/step-000020",
        )  # fmt: skip
        return End(outcome=result.model_copy(update={"training_result": training}) if rank == 0 else result)
    if stage == "sample":
        sample = SampleResult(
            sampleURIs=["s3://runs/dissolve/a.mp4"], reportURI="s3://runs/dissolve/report.html"
        )
        return End(outcome=result.model_copy(update={"sample_result": sample}))
    if stage == "check":
        return End(outcome=result.model_copy(update={"check_result": CheckResult(clips=3)}))
    counts = StageResult(cache_key=f"key-{stage}", items_total=3, items_done=3)
    return End(outcome=result.model_copy(update={"stage_result": counts}))


def failing(reason: Reason, code: int, *, until: int, message: str = "") -> Script:
    """The training fails in every attempt below `until`."""

    def script(stage: str, attempt: int, rank: int) -> End | None:
        if stage == "train" and attempt < until:
            return End(code, Outcome(reason=reason, message=message or f"attempt {attempt}", step=4))
        return well(stage, attempt, rank)

    return script


class FakeSigns:
    """Signs of life of the pod that a run is aimed at: `answer`, or silence, counted anew at every pass."""

    def __init__(self, clock: Clock) -> None:
        self.answer: Heartbeat | None = None
        self.log_readable = False
        self.targets: list[Target] = []
        self._clock = clock
        self._target: Target | None = None
        self._reading: Reading | None = None

    def aim(self, key: tuple[str, str], target: Target | None) -> None:
        if target != self._target:
            self._reading = None if target is None else Reading(pod_uid=target.uid)
        if target is not None and target not in self.targets:
            self.targets.append(target)
        self._target = target

    def reading(self, key: tuple[str, str]) -> Reading | None:
        if self._reading is None:
            return None
        if self.answer is None:
            silent = self._reading.silent + 1
            self._reading = replace(self._reading, silent=silent, log_readable=self.log_readable)
        else:
            self._reading = Reading(
                pod_uid=self._reading.pod_uid, heartbeat=self.answer, received=self._clock.now
            )
        return self._reading


class World:
    """A cluster with one MochiFineTune, its clock, and an operator that can be restarted."""

    def __init__(self, spec: dict[str, Any] | None = None, *, name: str = NAME) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock)
        self.signs = FakeSigns(self.clock)
        self.settings = Settings(trainer_image=IMAGE, progress_seconds=30)
        self.script: Script = well
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
        self.gatherer = Gatherer(self.cluster, self.backend, self.signs, self.settings, self.clock)

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
        found = [
            pod for pod in self.cluster.all("Pod") if pod["metadata"]["ownerReferences"][0]["name"] == job
        ]
        return sorted(found, key=lambda pod: pod["metadata"]["name"])

    def step(self) -> None:
        """Everybody but the operator does one thing: controllers make pods, kubelets start or end them."""
        for pod in self.cluster.all("Pod"):
            self._kubelet(pod)
        for job in self.cluster.all("Job"):
            if "spec" in job:
                self._job_controller(job)
        for job in self.cluster.all("PyTorchJob"):
            if "spec" in job:
                self._training_operator(job)

    def end(self, pod: Manifest, end: End) -> None:
        """The container of a pod ends."""
        message = end.outcome.to_line() if end.outcome is not None else ""
        now = render(self.clock.now)
        pod["status"] |= {
            "phase": "Failed" if end.code else "Succeeded",
            "containerStatuses": [
                {
                    "name": _name(pod),
                    "state": {
                        "terminated": {
                            "exitCode": end.code,
                            "reason": end.terminated_reason or ("Error" if end.code else "Completed"),
                            "message": message,
                            "startedAt": now,
                            "finishedAt": now,
                        }
                    }
                }
            ],
        }
        self.cluster.touch(pod)

    def _kubelet(self, pod: Manifest) -> None:
        labels, phase = pod["metadata"]["labels"], pod["status"]["phase"]
        if phase == "Pending" and not pod["status"].get("held"):
            started = {"running": {"startedAt": render(self.clock.now)}}
            pod["status"] |= {
                "phase": "Running",
                "podIP": "10.0.0.7",
                "containerStatuses": [{"name": _name(pod), "state": started}],
            }
            self.cluster.touch(pod)
        elif phase == "Running":
            rank = int(labels.get(observe.REPLICA_INDEX, "0"))
            end = self.script(labels[identity.LABEL_STAGE], int(labels[identity.LABEL_ATTEMPT]), rank)
            if end is not None:
                self.end(pod, end)

    def _job_controller(self, job: Manifest) -> None:
        if job.get("status", {}).get("conditions"):
            return
        phases = [pod["status"]["phase"] for pod in self.pods(job["metadata"]["name"])]
        if not phases:
            self._make_pod(job, job["spec"]["template"], job["metadata"]["name"] + "-x7x7x", {})
        elif "Succeeded" in phases:
            self._ended(job, "Complete", "CompletionsReached")
        elif "Failed" in phases:
            self._ended(job, "Failed", "PodFailurePolicy")

    def _training_operator(self, job: Manifest) -> None:
        if job.get("status", {}).get("conditions"):
            return
        name, worker = job["metadata"]["name"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
        phases = [pod["status"]["phase"] for pod in self.pods(name)]
        if not phases:
            for rank in range(worker["replicas"]):
                labels = {observe.REPLICA_INDEX: str(rank)}
                self._make_pod(job, worker["template"], f"{name}-worker-{rank}", labels)
        elif all(phase == "Succeeded" for phase in phases):
            self._ended(job, "Succeeded", "PyTorchJobSucceeded")

    def _make_pod(self, owner: Manifest, template: Manifest, name: str, labels: dict[str, str]) -> None:
        meta = owner["metadata"]
        self.cluster.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": NAMESPACE,
                    "labels": {**template["metadata"]["labels"], **labels},
                    "ownerReferences": [
                        {"kind": owner["kind"], "name": meta["name"], "uid": meta["uid"], "controller": True}
                    ],
                },
                "spec": template["spec"],
                "status": {"phase": "Pending"},
            }
        )

    def _ended(self, job: Manifest, kind: str, reason: str) -> None:
        now = render(self.clock.now)
        job["status"] = {
            "conditions": [
                {
                    "type": kind,
                    "status": "True",
                    "reason": reason,
                    "message": reason,
                    "lastTransitionTime": now,
                }
            ]
        }
        self.cluster.touch(job)


def _name(pod: Manifest) -> str:
    return pod["spec"]["containers"][0]["name"]


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
