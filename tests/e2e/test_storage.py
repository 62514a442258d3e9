"""S3 as companies have it, on a real control plane: a private authority, and keys that are renewed in the middle of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import install
from demo.devsite import VALUES
from mochi_api.spec import S3Spec
from mochi_api.status import FineTuneStatus
from tests.e2e.lab import Lab
from tests.trainer.fault_proxy import Answer, Fault, FaultProxy, Request, fault_proxy
from tests.trainer.storage.test_s3_trust import Authority

HOST = "127.0.19.84"
"""Of this machine, and not 127.0.0.1, which in a pod is the pod itself."""

EXPIRED = Answer(status=403, code="ExpiredToken", words="the token is no more")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("company") / "ca")


@pytest.fixture(scope="module")
def trusted(lab: Lab, authority: Authority) -> Iterator[FaultProxy]:
    """The S3 server behind TLS that the company's authority has signed."""
    upstream = S3Spec(endpoint=lab.cluster.s3.endpoint)
    with fault_proxy(upstream, lambda _: None, tls=authority.server(f"IP:{HOST}"), host=HOST) as proxy:
        yield proxy


def done(status: FineTuneStatus, name: str) -> bool:
    return any(stage.name == name and stage.state == "Succeeded" for stage in status.stages)


def test_a_private_authority_of_the_spec(lab: Lab, trusted: FaultProxy, authority: Authority) -> None:
    """Every pod has it: the first step, which reads, and a stage, which writes; without it the run says what is missing."""
    lab.apply("no-authority", {"storage.s3.endpoint": trusted.spec.endpoint})
    bundle = {"company.pem": authority.file.read_text()}
    lab.kubectl.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "company"}, "data": bundle}
    )
    named = {"configMapName": "company", "key": "company.pem"}
    lab.apply("authority", {"storage.s3.endpoint": trusted.spec.endpoint, "storage.s3.caBundle": named})
    lab.until("authority", lambda status: done(status, "trim"), "the clips")
    assert any(request.method == "PUT" for request in trusted.seen)
    failed = next(item for item in lab.failed("no-authority").conditions if item.type == "Failed")
    assert f"the certificate of {trusted.spec.endpoint} is not trusted" in failed.message
    for name in ("authority", "no-authority"):
        lab.delete(name)


def test_a_private_authority_of_the_chart(
    lab: Lab, trusted: FaultProxy, authority: Authority, project: Path
) -> None:
    """It serves every run that names none itself."""
    chart = (lab.operator, str(lab.cluster.helm), project / "helm" / "mochi-operator")
    try:
        install.operator(*chart, {**VALUES, "caBundle": authority.file.read_text()}, seconds=120)
        lab.apply("charts-authority", {"storage.s3.endpoint": trusted.spec.endpoint})
        lab.until("charts-authority", lambda status: done(status, "check"), "the first step")
        lab.delete("charts-authority")
    finally:
        install.operator(*chart, VALUES, seconds=120)


class Expiring:
    """Keys without a session token serve until the first clip is asked for."""

    def __init__(self) -> None:
        self.expired = threading.Event()
        self.refused: list[Request] = []

    def __call__(self, request: Request) -> Fault | None:
        if request.method == "GET" and request.path.endswith(".mp4") and "/clips/" in request.path:
            self.expired.set()
        if not self.expired.is_set() or "x-amz-security-token" in request.headers:
            return None
        self.refused.append(request)
        return EXPIRED


def test_keys_that_are_renewed_are_seen_by_the_pods_at_work(lab: Lab) -> None:
    """Nothing is started again: the pod that was refused reads the new keys from its volume and goes on."""
    s3 = lab.cluster.s3
    secret = install.storage_secret("renewed", s3.access_key, s3.secret_key)
    lab.kubectl.apply(secret)
    expiring = Expiring()
    with fault_proxy(S3Spec(endpoint=s3.endpoint), expiring, host=HOST) as proxy:
        storage = {
            "storage.s3.endpoint": proxy.spec.endpoint,
            "storage.s3.credentialsSecretName": "renewed",
            "storage.outputURI": f"s3://{lab.site.bucket.name}/renewed/",
        }
        lab.apply("renewed", storage)
        lab.until("renewed", lambda _: bool(expiring.refused), "a refusal")
        secret["stringData"]["AWS_SESSION_TOKEN"] = "fresh"
        lab.kubectl.apply(secret)
        status = lab.until("renewed", lambda status: done(status, "captions"), "the stage after it")
        assert [stage.attempt for stage in status.stages if stage.state == "Succeeded"] == [1] * 3
        lab.delete("renewed")
