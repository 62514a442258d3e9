"""S3 as companies have it, on a real control plane: a private authority, and keys that are renewed in the middle of a run."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from demo import install
from demo.devsite import VALUES
from mochi_api.spec import S3Spec
from mochi_api.status import FineTuneStatus
from tests.e2e.lab import Lab
from tests.trainer.fault_proxy import Answer, Fault, FaultProxy, Outgoing, Request, fault_proxy
from tests.trainer.storage.test_s3_trust import Authority

HOST = "127.0.19.84"
"""Of this machine, and not 127.0.0.1, which in a pod is the pod itself."""

TOKEN = "x-amz-security-token"
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


def without_token(secret_key: str) -> Outgoing:
    """Requests without their session token, which the server here does not know, signed anew (AWS Signature Version 4)."""

    def outgoing(method: str, path: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        kept = {name.lower(): value for name, value in headers.items() if name.lower() != TOKEN}
        if len(kept) == len(headers):
            return headers
        scope, names = re.findall(r"(?:Credential=[^/]+/|SignedHeaders=)([^, ]+)", kept["authorization"])
        signed = [name for name in names.split(";") if name != TOKEN]
        place, _, query = path.partition("?")
        pairs = sorted(part if "=" in part else f"{part}=" for part in query.split("&") if part)
        lines = [method, place, "&".join(pairs), *(f"{name}:{kept[name].strip()}" for name in signed)]
        canonical = "\n".join([*lines, "", ";".join(signed), kept["x-amz-content-sha256"]])
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", kept["x-amz-date"], scope, digest])
        key = f"AWS4{secret_key}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        credential = kept["authorization"].split("Credential=")[1].split(",")[0]
        kept["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={';'.join(signed)}, Signature={key.hex()}"
        )
        return kept

    return outgoing


class Expiring:
    """Keys without a session token serve until the stage trim has written something."""

    def __init__(self) -> None:
        self.expired = threading.Event()
        self.refused: list[Request] = []

    def __call__(self, request: Request) -> Fault | None:
        if not self.expired.is_set() or TOKEN in request.headers:
            if request.method == "PUT" and "/cache/trim/" in request.path:
                self.expired.set()
            return None
        self.refused.append(request)
        return EXPIRED


def test_keys_that_are_renewed_are_seen_by_the_pods_at_work(lab: Lab) -> None:
    """Nothing is started again: the pod that was refused reads the new keys from its volume and goes on."""
    s3 = lab.cluster.s3
    secret = install.storage_secret("renewed", s3.access_key, s3.secret_key)
    lab.kubectl.apply(secret)
    expiring = Expiring()
    signing = without_token(s3.secret_key)
    with fault_proxy(S3Spec(endpoint=s3.endpoint), expiring, host=HOST, outgoing=signing) as proxy:
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
