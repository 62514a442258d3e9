"""Why something failed or does not go on, from what a pod and its owner leave behind."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_api.spec import FineTuneSpec
from mochi_api.status import Resolved
from mochi_operator.snapshot import (
    Case,
    Child,
    Container,
    EventWarning,
    Family,
    ObjectRef,
    Pod,
    Reading,
    Run,
)
from mochi_operator.state import Attempt
from mochi_operator.steps.engine import CHECKS
from mochi_operator.verdicts import containers, creation, images, liveness, nodes, waiting
from mochi_operator.verdicts.finding import View
from tests.operator.fake_cluster import START
from tests.operator.world import IMAGE, full, heartbeat

LATER = START + timedelta(seconds=600)
RUNNING = Container(name="pytorch", started=START)


def pod(main: Container | None = None, **changes) -> Pod:
    known = {
        "name": "p", "uid": "pod", "owner_uid": "u", "step": "train", "attempt": 1, "rank": 0, "created": START,
        "main": main or Container(name="pytorch"),
    }  # fmt: skip
    return Pod(**{**known, **changes})


def ended(code: int | None, *, message: str = "", why: str = "", at=START) -> Container:
    finished = at if code is not None else None
    return Container(
        name="pytorch", exit_code=code, termination_message=message, ended_reason=why, finished=finished
    )


def failed(main: Container, **changes) -> Pod:
    return pod(main, **{"phase": "Failed", **changes})


def waits(reason: str, message: str = "") -> Pod:
    return pod(Container(name="pytorch", waiting_reason=reason, waiting_message=message))


def line(reason: Reason, message: str = "because") -> str:
    return Outcome(reason=reason, message=message, step=7).to_line()


def view(*pods: Pod, now=START, expected: int = 1, policy=None, workers=None, reading=None, **child) -> View:
    """An attempt of the training as the checks see it."""
    spec = full(runPolicy=policy or {}, workers={"replicas": max(expected, 2), **(workers or {})})
    ref = ObjectRef(kind="PyTorchJob", name="j", uid="u")
    return View(
        case=Case(
            run=Run(
                namespace="n", name="r", uid="run", generation=1, resource_version="1", created=START
            ),
            spec=FineTuneSpec.model_validate(spec),
            resolved=Resolved(
                replicas=expected, gpus_per_pod=1, image=IMAGE, warmup_steps=1, global_batch_size=1
            ),
            now=now, watched_seconds=3600, progress_interval=30, default_ca="", family=Family(pods=pods), reading=reading, refusals={},
        ),
        gang=True,
        attempt=Attempt(number=1, child="j", started=START),
        child=Child(**{"ref": ref, "step": "train", "attempt": 1, "created": START, "pods": expected, **child}),
        pods=pods, expected=expected, gpus=1, beats=True,
    )  # fmt: skip


_OCI = "failed to create containerd task: OCI runtime create failed: runc create failed: unable to start container process:"


@pytest.mark.parametrize(
    ("given", "reason", "message"),
    [
        (failed(ended(1, message=line(Reason.NON_FINITE_LOSS))), Reason.NON_FINITE_LOSS, "p: because"),
        (failed(ended(1, message="noise\n" + line(Reason.DISK_FULL))), Reason.DISK_FULL, "p: because"),
        (failed(ended(5)), Reason.ACCESS_DENIED, "exit code 5"),
        (failed(ended(5, message="{not json")), Reason.ACCESS_DENIED, "exit code 5"),
        (failed(ended(137, why="OOMKilled")), Reason.OUT_OF_MEMORY, "memory limit"),
        (failed(ended(137)), Reason.UNKNOWN, "exit code 137"),
        (
            failed(ended(137, message=line(Reason.UNKNOWN, "rank 1 was killed"))),
            Reason.UNKNOWN,
            "rank 1 was killed",
        ),
        (
            failed(ended(137, message=line(Reason.UNKNOWN, "rank 1 was killed"), why="OOMKilled")),
            Reason.OUT_OF_MEMORY,
            "memory limit",
        ),
        (failed(ended(143)), Reason.PREEMPTED, "exit code 143"),
        (failed(ended(137), disruption="PreemptionByScheduler"), Reason.PREEMPTED, "PreemptionByScheduler"),
        (failed(ended(1), disruption="EvictionByEvictionAPI"), Reason.PREEMPTED, "EvictionByEvictionAPI"),
        (
            failed(ended(None), disruption="DeletionByTaintManager"),
            Reason.NODE_LOST,
            "DeletionByTaintManager",
        ),
        (failed(ended(None), disruption="DeletionByPodGC"), Reason.NODE_LOST, "DeletionByPodGC"),
        (
            failed(ended(None), disruption="TerminationByKubelet", message="low on ephemeral-storage"),
            Reason.DISK_FULL,
            "low on ephemeral-storage",
        ),
        (failed(ended(None), message="Pod was rejected"), Reason.UNKNOWN, "Pod was rejected"),
        (
            failed(
                ended(None),
                message="Pod was rejected: Allocate failed due to requested number of devices unavailable for "
                "nvidia.com/gpu. Requested: 1, Available: 0, which is unexpected",
            ),
            Reason.DEVICE_UNAVAILABLE,
            "p: Pod was rejected: Allocate failed",
        ),
        (
            failed(ended(137, why="ContainerStatusUnknown", message="The container could not be located")),
            Reason.NODE_LOST,
            "p: its node has lost the container: The container could not be located",
        ),
        (
            failed(
                ended(137, why="ContainerStatusUnknown"), disruption="TerminationByKubelet", message="evicted"
            ),
            Reason.PREEMPTED,
            "p: evicted",
        ),
        *(
            (
                failed(ended(128, why="StartError", message=said)),
                reason,
                f"p: the container cannot be started: {said}",
            )
            for said, reason in (
                (
                    f'{_OCI} exec: "python": executable file not found in $PATH: unknown',
                    Reason.IMAGE_UNAVAILABLE,
                ),
                ("exec /usr/local/bin/python: exec format error", Reason.IMAGE_UNAVAILABLE),
                (
                    f"{_OCI} nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
                    Reason.DEVICE_UNAVAILABLE,
                ),
                (
                    f"{_OCI} container init was OOM-killed (memory limit too low?): unknown",
                    Reason.POD_REFUSED,
                ),
                (f'{_OCI} error mounting "/dev/shm": no such file or directory: unknown', Reason.UNKNOWN),
            )
        ),
        (
            failed(ended(127, why="ContainerCannotRun", message="exec: python")),
            Reason.IMAGE_UNAVAILABLE,
            "exec: python",
        ),
        (
            failed(ended(1, message='{"reason": "OutOfPatience", "message": "too slow"}')),
            Reason.UNKNOWN,
            "p: too slow",
        ),
    ],
)
def test_a_failed_pod_has_a_reason_and_a_message(given, reason, message):
    finding = containers.pod_failure(given)
    assert finding is not None
    assert finding.reason == reason
    assert message in finding.message


@pytest.mark.parametrize(
    "given",
    [pod(RUNNING, phase="Running"), pod(ended(0), phase="Succeeded"), pod(), pod(ended(0), phase="Failed")],
)
def test_a_pod_whose_container_has_not_failed_has_no_verdict(given):
    assert containers.pod_failure(given) is None


def test_the_cause_is_the_rank_that_failed_and_not_those_that_lost_it():
    lost = failed(ended(9, message=line(Reason.COLLECTIVE_TIMEOUT)), name="a", rank=0)
    cause = failed(ended(137, why="OOMKilled", at=LATER), name="b", rank=1)
    found = containers.cause([lost, cause])
    assert found is not None
    assert found.reason == Reason.OUT_OF_MEMORY


def test_among_equals_the_first_failure_is_the_cause():
    first = failed(ended(6), name="first", rank=3)
    second = failed(ended(5, at=LATER), name="second", rank=0)
    found = containers.cause([second, first])
    assert found is not None
    assert found.message.startswith("first")


@pytest.mark.parametrize(
    ("given", "kind", "reason", "patience"),
    [
        (waits("ImagePullBackOff", "x"), "image", Reason.IMAGE_UNAVAILABLE, 180),
        (waits("ErrImagePull"), "image", Reason.IMAGE_UNAVAILABLE, 180),
        (waits("InvalidImageName"), "image", Reason.IMAGE_UNAVAILABLE, 180),
        (waits("ImageInspectError"), "image", Reason.IMAGE_UNAVAILABLE, 180),
        (waits("SignatureValidationFailed", "x"), "image", Reason.IMAGE_UNAVAILABLE, 180),
        (waits("CreateContainerConfigError", 'secret "s3" not found'), "object", Reason.MISSING_OBJECT, 60),
        (waits("CreateContainerConfigError", 'configmap "r" not found'), "object", Reason.MISSING_OBJECT, 60),
        (
            waits("CreateContainerConfigError", "couldn't find key AWS_ACCESS_KEY_ID in Secret videos/s3"),
            "object",
            Reason.MISSING_OBJECT,
            60,
        ),
        (waits("CreateContainerConfigError", "runAsNonRoot"), "object", Reason.POD_REFUSED, 60),
        (waits("RunContainerError"), "create", Reason.POD_REFUSED, 180),
        (waits("PostStartHookError"), "create", Reason.POD_REFUSED, 180),
        (waits("ContainerCreating"), "", None, 0),
        (waits("PodInitializing"), "", None, 0),
    ],
)
def test_a_container_that_cannot_start_is_given_its_time(given, kind, reason, patience):
    finding = images.cannot_start(view(given))
    found = ("", None, 0) if finding is None else (finding.kind, finding.reason, finding.patience)
    assert found == (kind, reason, patience)


def test_a_pull_that_alternates_between_its_two_words_is_one_trouble():
    kinds = {images.cannot_start(view(waits(word))).kind for word in ("ErrImagePull", "ImagePullBackOff")}
    assert kinds == {"image"}


def test_a_claim_that_is_missing_is_an_object_and_a_gpu_that_is_missing_is_waited_for():
    missing = images.claim_missing(view(pod(unschedulable='persistentvolumeclaim "clips" not found')))
    assert missing is not None
    assert missing.reason == Reason.MISSING_OBJECT
    busy = view(pod(unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu"))
    assert images.claim_missing(busy) is None
    finding = waiting.unschedulable(busy)
    assert finding is not None
    assert finding.reason is None
    assert finding.message == (
        "p asks for 1 x nvidia.com/gpu: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
    )


def test_a_product_that_no_node_has_is_named_with_its_label():
    said = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector"
    finding = waiting.unschedulable(view(pod(unschedulable=said), workers={"gpuProducts": ["NVIDIA-H900"]}))
    assert finding is not None
    assert "label nvidia.com/gpu.product = NVIDIA-H900 (workers.gpuProducts)" in finding.message


QUOTA = 'pods "x" is forbidden: exceeded quota: gpus, requested: 1, used: 8, limited: 8'
HOOK = 'Internal error occurred: failed calling webhook "w": Post "https://w/": context deadline exceeded'
SECURITY = 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'


@pytest.mark.parametrize(
    ("said", "kind", "reason"),
    [
        (SECURITY, "refused", Reason.POD_REFUSED),
        ('admission webhook "w" denied the request: no', "refused", Reason.POD_REFUSED),
        (QUOTA, "quota", None),
        ('pods "x" is forbidden: failed quota: q: must specify limits.cpu', "refused", Reason.POD_REFUSED),
        (HOOK, "unavailable", None),
        ('Post "https://10.0.0.1/api/v1/pods": dial tcp: connect: connection refused', "unavailable", None),
        ('pods "j-worker-0" already exists', "unavailable", None),
        ("etcdserver: request timed out", "unavailable", None),
    ],
)
def test_what_refuses_a_pod_for_good_is_told_from_what_passes(said, kind, reason):
    finding = creation.refused_pods(view(warning=EventWarning(message=said, seen=START)))
    assert finding is not None
    assert (finding.kind, finding.reason) == (kind, reason)
    assert said in finding.message


def test_an_event_that_is_older_than_a_pod_says_nothing():
    warning = EventWarning(message=SECURITY, seen=START)
    later = pod(created=START + timedelta(seconds=1))
    assert creation.refused_pods(view(later, expected=2, warning=warning)) is None
    earlier = pod(created=START - timedelta(seconds=1))
    assert creation.refused_pods(view(earlier, expected=2, warning=warning)) is not None


def test_an_event_that_nobody_has_repeated_for_long_says_nothing():
    warning = EventWarning(message=SECURITY, seen=START)
    assert creation.refused_pods(view(warning=warning, now=START + timedelta(minutes=21))) is None
    assert creation.refused_pods(view(warning=warning, now=START + timedelta(minutes=19))) is not None


@pytest.mark.parametrize("kind", ["Job", "PyTorchJob"])
def test_a_controller_that_is_silent_is_named(kind):
    ref = ObjectRef(kind=kind, name="j", uid="u")
    assert creation.silent_controller(view(ref=ref)) is None, "it has only just been made"
    finding = creation.silent_controller(view(ref=ref, now=LATER))
    assert finding is not None
    assert creation.silent_controller(view(ref=ref, now=LATER, blind=True)) is None, "it may have said why"
    assert (finding.reason, finding.patience) == (Reason.BACKEND_UNAVAILABLE, 300)
    name = {"Job": "kube-controller-manager", "PyTorchJob": "the Kubeflow training operator"}[kind]
    assert name in finding.message
    assert creation.silent_controller(view(pod(), ref=ref, now=LATER)) is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('MountVolume.SetUp failed for volume "run" : configmap "j-run" not found', Reason.BACKEND_DELETED),
        ('MountVolume.SetUp failed for volume "w" : secret "weights" not found', Reason.MISSING_OBJECT),
        ("AttachVolume.Attach failed: Multi-Attach error for volume", None),
        (None, None),
    ],
)
def test_a_pod_that_has_a_node_and_does_not_start_is_told_with_its_kubelets_words(said, reason):
    warning = None if said is None else EventWarning(message=said, seen=START)
    given = pod(Container(name="pytorch", waiting_reason="ContainerCreating"), node="node-7", warning=warning)
    assert images.not_starting(view(given, now=START + timedelta(seconds=59))) is None
    finding = images.not_starting(view(given, now=LATER))
    assert finding is not None
    assert (finding.reason, "node-7" in finding.message) == (reason, True)
    assert (said or "are being made") in finding.message


def test_a_pod_that_waited_for_a_node_has_its_time_to_start_from_there():
    late = pod(Container(name="pytorch"), node="n", placed=LATER)
    assert images.not_starting(view(late, now=LATER + timedelta(seconds=59))) is None
    assert images.not_starting(view(late, now=LATER + timedelta(seconds=60))) is not None


@pytest.mark.parametrize(
    "given",
    [
        pod(RUNNING, node="n"),
        pod(node=""),
        pod(node="n", gone_by=LATER),
        pod(ended(1), node="n"),
        pod(Container(name="pytorch", waiting_reason="ErrImagePull"), node="n"),
    ],
)
def test_a_pod_that_runs_ends_or_waits_for_something_known_is_not_called_slow_to_start(given):
    assert images.not_starting(view(given, now=LATER)) is None


def test_a_pod_on_a_dead_node_is_lost_half_a_minute_after_its_grace_period():
    gone = START + timedelta(seconds=180)
    dead = pod(RUNNING, phase="Running", gone_by=gone, node="node-7", disruption="DeletionByTaintManager")
    early, late = view(dead, now=gone + timedelta(seconds=30)), view(dead, now=gone + timedelta(seconds=31))
    assert nodes.lost(early) is None
    assert nodes.terminating(early) is not None
    finding = nodes.lost(late)
    assert finding is not None
    assert finding.reason == Reason.NODE_LOST
    assert "node-7 does not answer" in finding.message


def reading(**changes) -> Reading:
    return Reading(**{"pod_uid": "pod", "heartbeat": heartbeat(), **changes})


UP = pod(RUNNING, phase="Running")


@pytest.mark.parametrize(
    ("beat", "seconds", "stalls"),
    [
        (heartbeat(quiet_seconds=0), 60, False),
        (heartbeat(quiet_seconds=0), 61, True),
        (heartbeat(quiet_seconds=50), 11, True),
        (heartbeat(activity="loading", done=0, step_age_seconds=None, quiet_seconds=2), 3600, True),
        (heartbeat(activity="loading", done=0, step_age_seconds=None, quiet_seconds=2), 50, False),
        (heartbeat(activity="not told", done=0, step_age_seconds=None, quiet_seconds=0), 240, False),
        (heartbeat(activity="not told", done=0, step_age_seconds=None, quiet_seconds=0), 241, True),
        (heartbeat(activity="saving", quiet_seconds=59), 0, False),
    ],
)
def test_a_stall_is_quiet_for_longer_than_the_policy_says(beat, seconds, stalls):
    given = view(
        UP,
        now=START + timedelta(seconds=seconds),
        policy={"stallTimeoutSeconds": 60},
        reading=reading(heartbeat=beat, age_seconds=seconds),
    )
    assert (liveness.stalled(given) is not None) is stalls


def test_a_clock_of_ours_that_jumps_ahead_makes_no_stall():
    given = view(UP, now=LATER, policy={"stallTimeoutSeconds": 60}, reading=reading(age_seconds=5))
    assert liveness.stalled(given) is None


def test_a_sign_of_another_pod_counts_for_nothing():
    old = reading(pod_uid="the one before", heartbeat=heartbeat(quiet_seconds=10**6))
    assert liveness.stalled(view(UP, reading=old)) is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"silent": 3, "log_readable": True}, True),
        ({"silent": 2, "log_readable": True}, False),
        ({"silent": 99, "log_readable": False}, False),
    ],
)
def test_silence_means_something_only_where_the_log_can_be_read(changes, found):
    given = view(UP, reading=reading(heartbeat=None, **changes))
    assert (liveness.silent(given) is not None) is found
    assert liveness.silent(replace(given, beats=False)) is None, "an image that writes no such lines"


def test_an_attempt_that_goes_well_is_found_fault_with_by_no_check():
    both = [replace(UP, rank=0, name="a"), replace(UP, rank=1, name="b", uid="other")]
    given = view(*both, expected=2, reading=reading())
    assert [check.__name__ for check in CHECKS if check(given) is not None] == []
