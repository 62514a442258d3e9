"""The rest of the cluster, one step at a time: Job controller, training operator, garbage collector and kubelets.

Kind as it stands; each attribute makes it as unkind in one way as clusters are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mochi_api import identity
from mochi_api.outcomes import CheckResult, Outcome, Reason, SampleResult, StageResult, TrainingResult
from mochi_operator import observe
from mochi_operator.cluster import KINDS, Manifest
from mochi_operator.timestamps import parse, render
from tests.operator.fake_cluster import Clock, FakeCluster

NAMESPACE = "videos"
PREVIEWED = 4
"""Step of the checkpoint that a preview finds, unless a script knows better."""
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
    if stage == "preview":
        uri = f"s3://runs/dissolve/samples/step-{PREVIEWED:06d}/sample-00.mp4"
        sample = SampleResult(sampleURIs=[uri], reportURI="s3://runs/dissolve/report.html", step=PREVIEWED)
        return End(outcome=result.model_copy(update={"sample_result": sample}))
    if stage == "check":
        found = CheckResult(clips=3, checked=["3 clips with captions"])
        return End(outcome=result.model_copy(update={"check_result": found}))
    counts = StageResult(cache_key=f"key-{stage}", items_total=3, items_done=3)
    return End(outcome=result.model_copy(update={"stage_result": counts}) if rank == 0 else result)


class Surroundings:
    """Everybody but the operator."""

    def __init__(self, cluster: FakeCluster, clock: Clock) -> None:
        self.script: Script = well
        self.sidecar = ""
        """Name of a container that a webhook puts beside ours; it runs on when ours has ended."""
        self.native_sidecar = ""
        """Name of a sidecar among the init containers; it ends with ours."""
        self.hold_controllers = False
        """Whether controllers look away."""
        self.saving_seconds = 0.0
        """How long a pod goes on that is told to stop."""
        self.node_of: Callable[[int], str] = lambda _rank: ""
        """Name of the node on which a pod starts; empty: nobody tells."""
        self._cluster = cluster
        self._clock = clock
        self._orphans: dict[str, datetime] = {}
        self._started: set[str] = set()
        """Jobs that have made their pods."""
        self._well: dict[str, set[str]] = {}
        """Names of the pods of each child that have ended well, those that are gone included."""

    def step(self) -> None:
        """Everybody does one thing: controllers make pods, kubelets start or end them."""
        self._collect()
        for pod in self._cluster.all("Pod"):
            self._kubelet(pod)
        for job in self._cluster.all("Job"):
            if "spec" in job:
                template = job["spec"]["template"]
                self._controller(job, _completions(job), template, "Complete", "CompletionsReached")
        for job in self._cluster.all("PyTorchJob"):
            if "spec" in job:
                worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
                self._controller(
                    job, worker["replicas"], worker["template"], "Succeeded", "PyTorchJobSucceeded"
                )

    def pods(self, job: str) -> list[Manifest]:
        """Pods of a Job or a PyTorchJob, in the order of their ranks."""
        found = [
            pod for pod in self._cluster.all("Pod") if pod["metadata"]["ownerReferences"][0]["name"] == job
        ]
        return sorted(found, key=lambda pod: pod["metadata"]["name"])

    def end(self, pod: Manifest, end: End) -> None:
        """Our container ends; the pod ends with it unless a sidecar runs on."""
        now = render(self._clock.now)
        state = {
            "exitCode": end.code,
            "reason": end.terminated_reason or ("Error" if end.code else "Completed"),
            "message": end.outcome.to_line() if end.outcome is not None else "",
            "startedAt": now,
            "finishedAt": now,
        }
        _tell(pod, _name(pod), {"terminated": state})
        running = [item for item in pod["status"]["containerStatuses"] if "running" in item["state"]]
        if not running:
            pod["status"]["phase"] = "Failed" if end.code else "Succeeded"
        self._cluster.touch(pod)

    def stop(self, pod: Manifest, *, disruption: str = "", message: str = "") -> None:
        """A pod is deleted: by a person, by the garbage collector, or, with its reason, by an eviction."""
        meta = pod["metadata"]
        if "deletionTimestamp" not in meta:
            grace = timedelta(seconds=pod["spec"]["terminationGracePeriodSeconds"])
            meta["deletionTimestamp"] = render(self._clock.now + grace)
        if disruption:
            condition = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": disruption,
                "message": message,
            }
            pod["status"].setdefault("conditions", []).append(condition)
        self._cluster.touch(pod)

    def lose_node(self, pod: Manifest) -> None:
        """Its node dies: the taint manager deletes the pod, and nobody is there to end it."""
        pod["status"]["held"] = True
        pod["spec"] = {**pod["spec"], "nodeName": "node-7"}
        self.stop(
            pod, disruption="DeletionByTaintManager", message="Taint manager: deleting due to NoExecute taint"
        )

    def suspend(self, child: Manifest, suspended: bool) -> None:
        """A queue holds a child back, or lets it go; its pods are stopped."""
        body = child["spec"].get("runPolicy", child["spec"])
        body["suspend"] = suspended
        self._cluster.touch(child)
        for pod in self.pods(child["metadata"]["name"]) if suspended else ():
            self.stop(pod)

    def complain(
        self,
        child: Manifest,
        message: str,
        *,
        seen: datetime | None = None,
        name: str = "e",
        reason: str = "FailedCreate",
    ) -> None:
        """A controller can make no pod, or a kubelet cannot start one, and says so in an Event."""
        event = {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": NAMESPACE},
            "involvedObject": {"uid": child["metadata"]["uid"]}, "type": "Warning", "reason": reason,
            "message": message,
        }  # fmt: skip
        self._cluster.put(event | ({"lastTimestamp": render(seen)} if seen is not None else {}))

    def _collect(self) -> None:
        """The garbage collector: what has lost its owner goes, after its time."""
        alive = {item["metadata"]["uid"] for item in self._cluster.objects.values()}
        for item in list(self._cluster.objects.values()):
            meta = item["metadata"]
            owners = meta.get("ownerReferences") or []
            if not owners or any(owner["uid"] in alive for owner in owners):
                continue
            since = self._orphans.setdefault(meta["uid"], self._clock.now)
            if (self._clock.now - since).total_seconds() < self._cluster.collect_seconds:
                continue
            if item["kind"] == "Pod":
                self.stop(item)
            else:
                self._cluster.remove(KINDS[item["kind"]], meta["namespace"], meta["name"])

    def _kubelet(self, pod: Manifest) -> None:
        meta, status = pod["metadata"], pod["status"]
        if status.get("held"):
            return
        if "deletionTimestamp" in meta:
            self._stopping(pod)
        elif status["phase"] == "Pending":
            self._start(pod)
        elif status["phase"] == "Running" and "running" in _state(pod, _name(pod)):
            labels, rank = meta["labels"], _rank(pod)
            end = self.script(labels[identity.LABEL_STAGE], int(labels[identity.LABEL_ATTEMPT]), rank)
            if end is not None:
                self.end(pod, end)

    def _start(self, pod: Manifest) -> None:
        started = {"running": {"startedAt": render(self._clock.now)}}
        pod["status"] |= {"phase": "Running", "podIP": "10.0.0.7"}
        if node := self.node_of(_rank(pod)):
            pod["spec"] = {**pod["spec"], "nodeName": node}
        _tell(pod, _name(pod), started)
        if self.sidecar:
            _tell(pod, self.sidecar, started)
        if self.native_sidecar:
            pod["status"]["initContainerStatuses"] = [{"name": self.native_sidecar, "state": started}]
        self._cluster.touch(pod)

    def _stopping(self, pod: Manifest) -> None:
        """Our program saves for a while, ends, and the pod is gone."""
        gone_by = parse(pod["metadata"]["deletionTimestamp"])
        assert gone_by is not None
        begun = gone_by - timedelta(seconds=pod["spec"]["terminationGracePeriodSeconds"])
        saves = "running" in _state(pod, _name(pod))
        if not saves or (self._clock.now - begun).total_seconds() >= self.saving_seconds:
            del self._cluster.objects["Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]]

    def _controller(self, job: Manifest, count: int, template: Manifest, done: str, reason: str) -> None:
        """Make the pods of a child once, and tell when all ended well, or one did not."""
        if job.get("status", {}).get("conditions") or self.hold_controllers:
            return
        body = job["spec"].get("runPolicy", job["spec"])
        name, pods = job["metadata"]["name"], self.pods(job["metadata"]["name"])
        if body.get("suspend"):
            self._started.discard(job["metadata"]["uid"])
            return
        phases = [pod["status"]["phase"] for pod in pods]
        ended = self._ended_well(job, count, pods)
        lost = len(pods) < count and job["kind"] == "Job" and job["metadata"]["uid"] in self._started
        if phases.count("Succeeded") == count or ended == count:
            self._ended(job, done, reason, reason)
        elif job["kind"] == "Job" and ((lost and not ended) or "Failed" in phases):
            self._fail(job, pods)
        elif "Failed" in phases:
            self._ended(job, "Failed", "PyTorchJobFailed", f"PyTorchJob {name} is failed because 1 failed.")
        else:
            self._make_pods(job, count, template)

    def _ended_well(self, job: Manifest, count: int, pods: list[Manifest]) -> int:
        """Pods of an Indexed Job that have ended well, those that are gone included; 0 for other children."""
        if count == 1 or job["kind"] != "Job":
            return 0
        well = self._well.setdefault(job["metadata"]["uid"], set())
        well |= {pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Succeeded"}
        job["status"] = {"succeeded": len(well)}
        return len(well)

    def _fail(self, job: Manifest, pods: list[Manifest]) -> None:
        """The Job's only try has failed, and with it all its pods."""
        for pod in pods:
            if pod["status"]["phase"] not in ("Succeeded", "Failed"):
                self.stop(pod)
        self._ended(job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def _make_pods(self, job: Manifest, count: int, template: Manifest) -> None:
        """The pods that are missing; a Job here makes its own once: one, or one for each index."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        if job["kind"] == "Job" and uid not in self._started:
            if count == 1:
                self._make_pod(job, template, f"{name}-x7x7x", {})
            for index in range(count if count > 1 else 0):
                notes = {observe.COMPLETION_INDEX: str(index)}
                self._make_pod(job, template, f"{name}-{index}-x7x7x", {}, notes)
            self._started.add(uid)
        if job["kind"] == "Job":
            return
        for rank in range(count):
            self._make_pod(job, template, f"{name}-worker-{rank}", {observe.REPLICA_INDEX: str(rank)})

    def _make_pod(
        self,
        owner: Manifest,
        template: Manifest,
        name: str,
        labels: dict[str, str],
        annotations: dict[str, str] | None = None,
    ) -> None:
        if ("Pod", NAMESPACE, name) in self._cluster.objects:
            return  # of an earlier run, still saving: the name is taken
        meta = owner["metadata"]
        self._cluster.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": NAMESPACE,
                    "labels": {**template["metadata"]["labels"], **labels},
                    "annotations": dict(annotations or {}),
                    "ownerReferences": [
                        {"kind": owner["kind"], "name": meta["name"], "uid": meta["uid"], "controller": True}
                    ],
                },
                "spec": template["spec"],
                "status": {"phase": "Pending"},
            }
        )

    def _ended(self, job: Manifest, kind: str, reason: str, message: str) -> None:
        now = render(self._clock.now)
        done = {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": now,
        }
        job["status"] = {**(job.get("status") or {}), "conditions": [done]}
        self._cluster.touch(job)


def _completions(job: Manifest) -> int:
    """Pods of a Job."""
    return int(job["spec"].get("completions", 1))


def _rank(pod: Manifest) -> int:
    meta = pod["metadata"]
    told = meta["labels"].get(observe.REPLICA_INDEX) or (meta.get("annotations") or {}).get(
        observe.COMPLETION_INDEX
    )
    return int(told or 0)


def _name(pod: Manifest) -> str:
    return str(pod["spec"]["containers"][0]["name"])


def _state(pod: Manifest, name: str) -> dict[str, Any]:
    found = (item["state"] for item in pod["status"].get("containerStatuses", ()) if item["name"] == name)
    return next(found, {})


def _tell(pod: Manifest, name: str, state: dict[str, Any]) -> None:
    """The kubelet reports a container; it sorts the reports by name."""
    others = [item for item in pod["status"].get("containerStatuses", ()) if item.get("name") != name]
    both = [*others, {"name": name, "state": state}]
    pod["status"]["containerStatuses"] = sorted(both, key=lambda item: item["name"])
