"""Who has to act after a refusal, told from the sentences that API servers say (Kubernetes 1.34)."""

import json

import pytest

from mochi_operator.answers import ExpiredError, cause, error_of
from mochi_operator.cluster import RefusedError, UnavailableError

JOB = 'jobs.batch "dissolve-trim-a1" is forbidden: '
POD = 'pods "dissolve-train-a1-worker-0" is forbidden: '
SENTENCES = [
    # ResourceQuota
    ("quota", 403, JOB + "exceeded quota: videos, requested: count/jobs.batch=1, used: count/jobs.batch=1, limited: count/jobs.batch=1"),
    ("quota", 403, POD + "exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=4"),
    ("quota", 403, JOB + "status unknown for quota: videos, resources: count/jobs.batch"),
    ("quota", 403, POD + "insufficient quota to consume: requests.nvidia.com/gpu"),
    ("quota", 403, "insufficient quota to match these scopes: [{PriorityClass In [high]}]"),
    ("admission", 403, POD + "failed quota: videos: must specify limits.cpu for: trainer"),
    # LimitRange, PodSecurity, PriorityClass, ServiceAccount, the end of a namespace
    ("admission", 403, POD + "maximum memory usage per Container is 8Gi, but limit is 64Gi"),
    ("admission", 403, POD + "[minimum cpu usage per Pod is 1, but request is 100m, maximum cpu usage per Pod is 4, but limit is 8]"),
    ("admission", 403, POD + 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "trainer" must set securityContext.allowPrivilegeEscalation=false)'),
    ("admission", 403, POD + "no PriorityClass with name high was found"),
    ("admission", 403, POD + 'error looking up service account videos/trainer: serviceaccount "trainer" not found'),
    ("admission", 403, JOB + "unable to create new content in namespace videos because it is being terminated"),
    # policies and webhooks, with the codes that they choose
    ("admission", 422, JOB + "ValidatingAdmissionPolicy 'no-big-jobs' with binding 'videos' denied request: failed expression: object.spec.parallelism < 9"),
    ("admission", 403, JOB + "ValidatingAdmissionPolicy 'no-big-jobs' with binding 'videos' denied request: too big"),
    ("admission", 400, 'admission webhook "validator.training-operator.kubeflow.org" denied the request: PyTorchJob is invalid'),
    ("admission", 403, 'admission webhook "check.example.com" denied the request: exceeded quota: of our own'),
    ("admission", 400, 'admission webhook "check.example.com" denied the request without explanation'),
    # rights
    ("forbidden", 403, 'jobs.batch is forbidden: User "system:serviceaccount:mochi:mochi-operator" cannot create resource "jobs" in API group "batch" in the namespace "videos"'),
    ("forbidden", 403, 'pods "p" is forbidden: User "system:serviceaccount:mochi:mochi-operator" cannot get resource "pods/log" in API group "" in the namespace "videos": RBAC: role.rbac.authorization.k8s.io "x" not found'),
    ("forbidden", 403, JOB + "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"),
    ("forbidden", 403, "<html>Forbidden by the company's proxy</html>"),
    # objects
    ("invalid", 422, 'Job.batch "dissolve-trim-a1" is invalid: spec.template.spec.containers[0].image: Required value'),
    ("invalid", 400, 'Job in version "v1" cannot be handled as a Job: json: cannot unmarshal string into Go struct field JobSpec.spec.parallelism of type int32'),
    ("invalid", 413, "Request entity too large: limit is 3145728"),
]  # fmt: skip


@pytest.mark.parametrize(("who", "code", "message"), SENTENCES)
def test_the_cause_of_a_refusal_is_told_from_its_sentence(who, code, message):
    assert cause(code, message) == who
    error = error_of(code, json.dumps({"kind": "Status", "reason": "Some", "message": message}), "POST /x")
    assert isinstance(error, RefusedError)
    assert (error.cause, error.code, error.reason, error.words, str(error)) == (
        who,
        code,
        "Some",
        message,
        message,
    )


def test_a_webhook_that_denies_with_a_servers_code_still_refuses():
    denied = {"message": 'admission webhook "w" denied the request: later', "code": 500}
    error = error_of(500, json.dumps(denied), "POST /x")
    assert isinstance(error, RefusedError)
    assert (error.cause, error.final) == ("admission", False)


def test_a_webhook_that_does_not_answer_is_no_refusal_and_its_sentence_is_kept():
    words = 'Internal error occurred: failed calling webhook "w": Post "https://w.kubeflow.svc:443": EOF'
    error = error_of(500, json.dumps({"reason": "InternalError", "message": words}), "POST /x", 2.0)
    assert isinstance(error, UnavailableError)
    assert (error.words, error.retry_after) == (words, 2.0)
    assert str(error) == f"{words} (POST /x, HTTP 500)"


@pytest.mark.parametrize("body", ["", "[]", "<html>bad gateway</html>", '{"message": null}'])
def test_an_answer_that_is_no_status_is_quoted_or_told_by_its_code(body):
    error = error_of(502, body, "GET /x")
    assert isinstance(error, UnavailableError)
    assert error.words == (body or "HTTP 502")


def test_a_state_that_is_compacted_away_is_an_error_of_its_own():
    assert isinstance(
        error_of(410, json.dumps({"reason": "Expired", "message": "old"}), "GET /x"), ExpiredError
    )
