"""Why something failed, from what a pod and its owner leave behind."""

from datetime import timedelta

import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_operator.policy import verdicts
from mochi_operator.snapshot import Child, ObjectRef, Pod
from tests.operator.fake_cluster import START

LATER = START + timedelta(seconds=600)


def pod(**changes) -> Pod:
    return Pod(
        **{
            "name": "p",
            "owner_uid": "u",
            "stage": "train",
            "attempt": 1,
            "rank": 0,
            "created": START,
            **changes,
        }
    )


def failed(**changes) -> Pod:
    return pod(**{"phase": "Failed", "exit_code": 1, "finished": START, **changes})


def child(**changes) -> Child:
    ref = ObjectRef(kind="PyTorchJob", name="j", uid="u")
    return Child(**{"ref": ref, "stage": "train", "attempt": 1, "created": START, **changes})


def line(reason: Reason, message: str = "because") -> str:
    return Outcome(reason=reason, message=message, step=7).to_line()


@pytest.mark.parametrize(
    ("given", "reason", "message"),
    [
        (failed(termination_message=line(Reason.NON_FINITE_LOSS)), Reason.NON_FINITE_LOSS, "p: because"),
        (failed(termination_message="noise\n" + line(Reason.DISK_FULL)), Reason.DISK_FULL, "p: because"),
        (failed(exit_code=5), Reason.ACCESS_DENIED, "exit code 5"),
        (failed(exit_code=5, termination_message="{not json"), Reason.ACCESS_DENIED, "exit code 5"),
        (failed(exit_code=137, terminated_reason="OOMKilled"), Reason.OUT_OF_MEMORY, "memory limit"),
        (failed(exit_code=137), Reason.UNKNOWN, "exit code 137"),
        (failed(exit_code=143), Reason.PREEMPTED, "exit code 143"),
        (
            failed(exit_code=137, disruption="PreemptionByScheduler"),
            Reason.PREEMPTED,
            "PreemptionByScheduler",
        ),
        (failed(exit_code=1, disruption="EvictionByEvictionAPI"), Reason.PREEMPTED, "EvictionByEvictionAPI"),
        (
            failed(exit_code=None, disruption="DeletionByTaintManager"),
            Reason.NODE_LOST,
            "DeletionByTaintManager",
        ),
        (
            failed(exit_code=None, disruption="TerminationByKubelet", message="low on ephemeral-storage"),
            Reason.DISK_FULL,
            "low on ephemeral-storage",
        ),
        (failed(exit_code=None, message="Pod was rejected"), Reason.UNKNOWN, "Pod was rejected"),
    ],
)
def test_a_failed_pod_has_a_reason_and_a_message(given, reason, message):
    verdict = verdicts.pod_failure(given)
    assert verdict is not None
    assert verdict.reason == reason
    assert message in verdict.message


@pytest.mark.parametrize("given", [pod(phase="Running"), pod(phase="Succeeded", exit_code=0), pod()])
def test_a_pod_that_has_not_failed_has_no_verdict(given):
    assert verdicts.pod_failure(given) is None


def test_the_cause_is_the_rank_that_failed_and_not_those_that_lost_it():
    lost = failed(name="a", rank=0, termination_message=line(Reason.COLLECTIVE_TIMEOUT), finished=START)
    cause = failed(name="b", rank=1, exit_code=137, terminated_reason="OOMKilled", finished=LATER)
    found = verdicts.cause([lost, cause])
    assert found is not None
    assert found.reason == Reason.OUT_OF_MEMORY


def test_among_equals_the_first_failure_is_the_cause():
    first = failed(name="first", rank=3, exit_code=6, finished=START)
    second = failed(name="second", rank=0, exit_code=5, finished=LATER)
    found = verdicts.cause([second, first])
    assert found is not None
    assert found.message.startswith("first")


@pytest.mark.parametrize(
    ("given", "seconds", "reason"),
    [
        (pod(waiting_reason="ImagePullBackOff", waiting_message="x"), 181, Reason.IMAGE_UNAVAILABLE),
        (pod(waiting_reason="ErrImagePull"), 181, Reason.IMAGE_UNAVAILABLE),
        (pod(waiting_reason="ImagePullBackOff"), 179, None),
        (
            pod(waiting_reason="CreateContainerConfigError", waiting_message='secret "s3" not found'),
            61,
            Reason.MISSING_OBJECT,
        ),
        (
            pod(
                waiting_reason="CreateContainerConfigError",
                waiting_message="couldn't find key AWS_ACCESS_KEY_ID in Secret videos/s3",
            ),
            61,
            Reason.MISSING_OBJECT,
        ),
        (pod(waiting_reason="CreateContainerConfigError", waiting_message='secret "s3" not found'), 59, None),
        (
            pod(waiting_reason="CreateContainerConfigError", waiting_message="runAsNonRoot"),
            61,
            Reason.POD_REFUSED,
        ),
        (pod(waiting_reason="RunContainerError"), 181, Reason.POD_REFUSED),
        (pod(unschedulable='persistentvolumeclaim "clips" not found'), 61, Reason.MISSING_OBJECT),
        (pod(unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu"), 10**6, None),
        (pod(waiting_reason="ContainerCreating"), 10**6, None),
    ],
)
def test_a_pod_that_cannot_start_is_given_up_in_its_time(given, seconds, reason):
    verdict = verdicts.stuck([given], START + timedelta(seconds=seconds))
    assert (verdict.reason if verdict is not None else None) == reason


@pytest.mark.parametrize(
    ("given", "pods", "seconds", "reason"),
    [
        (child(warning='pods "x" is forbidden: violates PodSecurity'), [], 61, Reason.POD_REFUSED),
        (child(warning='pods "x" is forbidden: violates PodSecurity'), [], 59, None),
        (child(warning='pods "x" is forbidden: violates PodSecurity'), [pod()], 61, Reason.POD_REFUSED),
        (child(warning='pods "x" is forbidden: exceeded quota: gpus'), [], 10**6, None),
        (child(), [], 301, Reason.BACKEND_UNAVAILABLE),
        (child(), [], 299, None),
        (child(), [pod()], 10**6, None),
        (child(suspended=True), [], 10**6, None),
    ],
)
def test_pods_that_are_not_made_are_not_waited_for_without_end(given, pods, seconds, reason):
    verdict = verdicts.podless(given, pods, 2, START + timedelta(seconds=seconds))
    assert (verdict.reason if verdict is not None else None) == reason


def test_what_is_waited_for_is_named():
    assert verdicts.waiting(child(), [pod(unschedulable="no free GPU")]) == "p: no free GPU"
    assert verdicts.waiting(child(warning="quota"), []) == "quota"
    assert verdicts.waiting(child(), [pod(phase="Running")]) == ""
